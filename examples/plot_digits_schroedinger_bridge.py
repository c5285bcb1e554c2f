"""
A Schroedinger bridge between two digits
========================================

Threes become eights by a process that starts at data, not at noise: the Schroedinger bridge, the
likeliest way from one cloud to the other for a Brownian motion. [SF]2M learns its velocity and its
score from entropic pairs, without simulating anything (Tong et al. 2024, arXiv 2307.03672). Then
the same networks give a flow, where every three has one eight, and stochastic processes, where it
has many. A three keeps its slant and weight on the way.
"""

import matplotlib.pyplot as plt
import torch

import fastgen
from fastgen.couplings import Sinkhorn
from fastgen.datasets import load_digits
from fastgen.networks import MLP
from fastgen.training import Settings, Trainer, losses, paths

# %%
# Threes and eights, 8 x 8 pixels in [-1, 1]; those that start are held out from training.
digits = load_digits().train
threes, eights = (digits.images[digits.labels == k] for k in (3, 8))
held_out = load_digits().held_out_a
starts = held_out.images[held_out.labels == 3][:6]
print(f"{len(threes)} threes, {len(eights)} eights")

# %%
# Brownian bridges of noise SIGMA between entropic pairs whose regularisation is 2 SIGMA^2. The
# network's second output is SIGMA^2 / 2 times the score.
SIGMA = 0.6
path = paths.Brownian(SIGMA)
coupling = Sinkhorn(2 * SIGMA**2, "absolute", options={"tolerance": 1e-2})


def loss(network, batch):
    """Of a step: threes are drawn anew, and paired with the eights of the batch."""
    generator = torch.Generator().manual_seed(batch.step)
    drawn = threes[torch.randint(len(threes), (len(batch.data),), generator=generator)]
    key = {"seed": batch.seed, "step": batch.step}
    sample = path.sample(drawn, batch.data, **key, coupling=coupling, targets=("velocity", "noise"))
    velocity, score = network(sample.x_t, sample.t).chunk(2, 1)
    return losses.score_and_flow_matching(velocity, score, sample)


torch.manual_seed(0)
network = MLP((1, 8, 8), (256, 256, 256), "silu", outputs=2)
settings = Settings(steps=800, batch=64, learning_rate=2e-3, average=0.99)
trainer = Trainer(network, loss, eights, settings)
trainer.run()
schedule = fastgen.schedules.Rectified()
bridge = fastgen.Model(
    lambda x, t: trainer.average(x, t).chunk(2, 1),
    schedule,
    "velocity_and_score",
    data_at=1,
    score_scale=SIGMA**2 / 2,
)

# %%
# Each of six threes on its way, by the flow and by two runs of the process, with different noise.
SHOWN = (0, 15, 30, 45, 60)
figure, axes = plt.subplots(1, 3, figsize=(10, 4.9), layout="constrained")
for axis, (name, sigma, seed) in zip(
    axes, [("the flow", 0.0, 0), ("the process", SIGMA, 1), ("again", SIGMA, 2)], strict=True
):
    _, states = fastgen.sample(
        bridge,
        starts,
        "bridge_sde",
        60,
        seed=seed,
        sigma=sigma,
        last_step="mean",
        trajectory=True,
    )
    tiles = torch.nn.functional.pad(states[list(SHOWN)], (1, 1, 1, 1), value=-1)[:, :, 0]
    sheet = torch.cat([torch.cat(list(row), 1) for row in tiles.transpose(0, 1)])
    axis.imshow(-sheet, cmap="gray", vmin=-1, vmax=1)
    axis.set_xticks([10 * k + 4.5 for k in range(len(SHOWN))], [f"{k / 60:g}" for k in SHOWN])
    axis.set(yticks=[], xlabel="share of the way", title=name)
plt.show()
