"""
Reflow: straight enough for one step
====================================

A flow that was trained on random pairs has curved trajectories and needs steps to follow them.
Trained again on its own pairs, each noise with the sample that it led to, lines no longer cross,
and the trajectories become straight: one Euler step is then almost the whole way. Liu et al. 2023
(arXiv 2209.03003).
"""

import tempfile

import matplotlib.pyplot as plt
import numpy as np
import torch

import fastgen
from fastgen.datasets import eight_gaussians
from fastgen.networks import MLP
from fastgen.training import Flow, Settings, Trainer, losses, paths, reflow

# %%
# The first flow, from noise to eight Gaussians.
rng = np.random.default_rng(0)
data = torch.from_numpy(eight_gaussians(10_000, rng, radius=2.5, std=0.25)).float()
objective, path = Flow(), paths.Linear()
settings = Settings(steps=800, batch=256, learning_rate=5e-3, average=0.99)
torch.manual_seed(0)
first = Trainer(MLP(widths=(128, 128, 128), activation="silu"), objective.loss, data, settings)
first.run()

# %%
# Its pairs, kept in a folder in shards; and the second flow, which learns the lines between them.
# Rows of the data are the numbers of pairs.
folder = tempfile.TemporaryDirectory()
pairs = reflow(objective.model(first.average), folder.name, 8_000, (2,), solver="heun", steps=20)


def straighten(network, batch):
    """Flow matching along the lines of given pairs."""
    k = batch.data.long()
    sample = path.sample(pairs.x0[k], pairs.x1[k], seed=batch.seed, step=batch.step)
    return losses.flow_matching(network(sample.x_t, sample.t), sample)


second = Trainer(first.network, straighten, torch.arange(8_000.0), settings)
second.run()

# %%
# Samples in one step, two steps and many, and the trajectories of the latter.
held_out = data[-1000:]
figure, axes = plt.subplots(2, 4, figsize=(9.6, 5), layout="constrained", sharex=True, sharey=True)
for row, (name, trainer) in zip(axes, {"flow": first, "reflow": second}.items(), strict=True):
    model = objective.model(trainer.average)
    for axis, steps in zip(row, (1, 2, 50), strict=False):
        x, states = fastgen.sample(model, (1000, 2), "euler", steps, seed=1, trajectory=True)
        axis.scatter(*x.T, s=3, color="tab:blue", linewidths=0)
        apart = fastgen.wasserstein(x, held_out)
        axis.set_title(f"{steps} step{'s' * (steps > 1)}: W2 {apart:.2f}", fontsize=10)
    row[3].plot(*states[:, :60].permute(2, 0, 1), color="0.5", linewidth=0.6)
    row[3].scatter(*states[0, :60].T, s=6, color="black", linewidths=0)
    row[3].scatter(*states[-1, :60].T, s=6, color="tab:blue", linewidths=0)
    row[3].set_title("trajectories", fontsize=10)
    row[0].set_ylabel(name)
for axis in axes.flat:
    axis.set(aspect="equal", xticks=[], yticks=[], xlim=(-4.5, 4.5), ylim=(-4.5, 4.5))
folder.cleanup()
plt.show()
