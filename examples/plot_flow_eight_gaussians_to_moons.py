"""
Eight Gaussians to two moons, by four methods
=============================================

Flow matching between two clouds of points, with the pairs and paths of four papers' methods side
by side. I-CFM pairs at random, and its lines bend where averages of crossing lines change; OT-CFM
pairs each batch optimally and is nearly straight; SB-CFM learns the flow of a Schroedinger bridge;
[SF]2M also its score, and can be sampled as a stochastic process. Tong et al. 2024
(arXiv 2302.00482, 2307.03672).
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import fastgen
from fastgen.couplings import ExactOT, Independent, Sinkhorn
from fastgen.datasets import eight_gaussians, moons
from fastgen.networks import MLP
from fastgen.training import Settings, Trainer, losses, paths

# %%
# Source and data; a path and a coupling for each method.
SIGMA = 1.0


def entropic():
    """The coupling of a Schroedinger bridge whose paths have the noise SIGMA."""
    return Sinkhorn(2 * SIGMA**2, "absolute", options={"tolerance": 1e-2})


METHODS = {
    "I-CFM": (paths.Linear(0.1), Independent()),
    "OT-CFM": (paths.Linear(0.1), ExactOT()),
    "SB-CFM": (paths.Brownian(SIGMA), entropic()),
    "[SF]2M": (paths.Brownian(SIGMA), entropic()),
}


def source(count, *seed):
    """Points of the eight Gaussians, [count, 2]."""
    return torch.from_numpy(eight_gaussians(count, np.random.default_rng(seed))).float()


def target(count, *seed):
    """Points of the moons, [count, 2]."""
    return torch.from_numpy(3 * moons(count, np.random.default_rng(seed)) - 1).float()


# %%
# One trainer serves all four. [SF]2M's network has two outputs, the velocity and sigma^2 / 2 times
# the score.
def train(method, steps=600):
    """A model of the method, with data at t = 1."""
    path, coupling = METHODS[method]
    both = method == "[SF]2M"

    def loss(network, batch):
        x0 = source(len(batch.data), 1, batch.step)
        sample = path.sample(
            x0,
            batch.data,
            seed=batch.seed,
            step=batch.step,
            coupling=coupling,
            targets=("velocity", "noise"),
        )
        output = network(sample.x_t, sample.t)
        if both:
            return losses.score_and_flow_matching(*output.chunk(2, 1), sample)
        return losses.flow_matching(output, sample)

    torch.manual_seed(0)
    settings = Settings(steps=steps, batch=256, average=0.98, learning_rate=5e-3)
    network = MLP(widths=(128, 128, 128), activation="silu", outputs=2 if both else 1)
    trainer = Trainer(network, loss, target(10_000, 2), settings)
    trainer.run()
    schedule = fastgen.schedules.Rectified()
    if not both:
        return fastgen.Model(trainer.average, schedule, "velocity", data_at=1)
    return fastgen.Model(
        lambda x, t: trainer.average(x, t).chunk(2, 1),
        schedule,
        "velocity_and_score",
        data_at=1,
        score_scale=SIGMA**2 / 2,
    )


# %%
# Trajectories from the same starts, and the distance of their ends to other moons.
starts, held_out = source(1000, 3), target(1000, 4)
figure, axes = plt.subplots(1, 4, figsize=(12, 3.3), layout="constrained", sharex=True, sharey=True)
for axis, method in zip(axes, METHODS, strict=True):
    solver, options = ("bridge_sde", {"sigma": SIGMA}) if method == "[SF]2M" else ("euler", {})
    x, states = fastgen.sample(
        train(method), starts, solver, 100, timesteps="uniform", trajectory=True, **options
    )
    axis.plot(*states[:, :150].permute(2, 0, 1), color="0.7", linewidth=0.4, zorder=0)
    axis.scatter(*starts[:150].T, s=4, color="black", linewidths=0)
    axis.scatter(*x.T, s=4, color="tab:blue", linewidths=0)
    axis.set(aspect="equal", xticks=[], yticks=[], xlim=(-8.5, 8.5), ylim=(-8.5, 8.5))
    axis.set_title(f"{method}: W2 {fastgen.wasserstein(x, held_out):.2f}")
plt.show()
