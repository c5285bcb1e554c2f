"""
Minibatch optimal transport, and how straight paths become
==========================================================

Flow matching pairs noise with data; which with which is free. Lines between random pairs cross, so
that the flow bends and needs steps. The larger the group in which pairs are optimal, the straighter
the flow, and the fewer the steps (Pooladian et al. 2023, arXiv 2304.14772; Tong et al. 2024,
2302.00482). An order along a space-filling curve costs a sort and does a part of it. *Detour*: how
much longer the ways are than the lines between their ends.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import fastgen
from fastgen.couplings import ExactOT, Hilbert, Independent
from fastgen.datasets import eight_gaussians
from fastgen.networks import MLP
from fastgen.training import Settings, Trainer, losses, paths

points = torch.from_numpy(eight_gaussians(21_000, np.random.default_rng(0), 2.0, 0.15)).float()
data, held_out, other = points[:20_000], points[20_000:20_500], points[20_500:]

# %%
# Every training step has 256 pairs, made in groups of the size that is named.
BATCH = 256
COUPLINGS = {
    "at random": (Independent(), BATCH),
    "Hilbert curve, 256": (Hilbert(), BATCH),
    "optimal, 16": (ExactOT(), 16),
    "optimal, 64": (ExactOT(), 64),
    "optimal, 256": (ExactOT(), BATCH),
}
path = paths.Linear()


def train(coupling, size):
    """A model whose pairs were made by a coupling of groups of so many."""

    def loss(network, batch):
        noise = fastgen.randn(batch.data.shape, seed=1, draw=batch.step)
        groups = zip(noise.split(size), batch.data.split(size), strict=True)
        pairs = [coupling.pair(*group) for group in groups]
        x0, x1 = (torch.cat(side) for side in zip(*pairs, strict=True))
        sample = path.sample(x0, x1, seed=batch.seed, step=batch.step)
        return losses.flow_matching(network(sample.x_t, sample.t), sample)

    settings = Settings(steps=400, batch=BATCH, learning_rate=5e-3, average=0.98)
    torch.manual_seed(0)
    trainer = Trainer(MLP(widths=(64, 64, 64), activation="silu"), loss, data, settings)
    trainer.run()
    return fastgen.Model(trainer.average, fastgen.schedules.Rectified(), "velocity", data_at=1)


# %%
# Ways of samples, and the distance to held-out data by the number of Euler's steps.
STEPS = (1, 2, 4, 8, 16)
figure, axes = plt.subplots(2, 3, figsize=(10, 6.4), layout="constrained")
chart = axes.flat[-1]
for axis, (name, choice) in zip(axes.flat, COUPLINGS.items(), strict=False):
    model = train(*choice)
    _, states = fastgen.sample(model, (500, 2), "heun", 30, seed=2, trajectory=True)
    length = states.diff(dim=0).norm(dim=2).sum(0)
    detour = float(length.sum() / (states[-1] - states[0]).norm(dim=1).sum() - 1)
    axis.plot(*states[:, :150].permute(2, 0, 1), color="0.6", linewidth=0.5, zorder=0)
    axis.scatter(*states[0, :150].T, s=4, color="black", linewidths=0)
    axis.scatter(*states[-1, :150].T, s=6, color="tab:blue", linewidths=0)
    axis.set(aspect="equal", xticks=[], yticks=[], xlim=(-3, 3), ylim=(-3, 3))
    axis.set_title(f"{name}: detour {100 * detour:.0f} %", fontsize=10)
    apart = [
        fastgen.wasserstein(fastgen.sample(model, (500, 2), "euler", n, seed=2), held_out)
        for n in STEPS
    ]
    chart.plot(STEPS, apart, "o-", label=name, markersize=4)
chart.axhline(fastgen.wasserstein(other, held_out), color="0.6", label="other data")
chart.set_xscale("log", base=2)
chart.set(xlabel="evaluations", ylabel="W2 to held-out data", ylim=0)
chart.legend(frameon=False, fontsize=8)
plt.show()
