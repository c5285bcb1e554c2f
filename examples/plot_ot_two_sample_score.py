"""
How good are samples? Wasserstein distance as a score
=====================================================

Two clouds of points, one of data and one of samples: the Wasserstein distance says how far the
samples have to move to become data. It sees what a mean and a covariance miss. Fresh data do not
score zero, as no two clouds of points are equal: their score is the floor, and falls with the
number of points. The sliced distance is cheaper and smaller, and ranks alike.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import fastgen
from fastgen.datasets import moons

# %%
# Data, and four sets of "samples" that a model could have made.
rng = np.random.default_rng(0)


def draw(count, noise=0.05):
    """Points of two moons, [count, 2]."""
    return torch.from_numpy(moons(count, rng, noise)).float()


data = draw(1000)
half = draw(3000)
CASES = {
    "fresh data": draw(1000),
    "too noisy": draw(1000, 0.2),
    "a mode lost": half[half[:, 1] > 0.25][:1000],
    "a Gaussian": torch.distributions.MultivariateNormal(data.mean(0), data.T.cov()).sample([1000]),
}
figure, axes = plt.subplots(1, 4, figsize=(11, 2.5), layout="constrained", sharex=True, sharey=True)
for axis, (name, samples) in zip(axes, CASES.items(), strict=True):
    score = fastgen.wasserstein(samples, data)
    axis.scatter(*data.T, s=2, color="0.8", linewidths=0)
    axis.scatter(*samples.T, s=2, color="tab:blue", linewidths=0)
    axis.set(aspect="equal", xticks=[], yticks=[], title=f"{name}: {score:.3f}")
    axis.set(xlim=(-2.2, 3.2), ylim=(-1.6, 2.1))

# %%
# The score of each against the number of points compared.
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
counts = (30, 60, 125, 250, 500, 1000)
for axis, method in zip(axes, ("exact", "sliced"), strict=True):
    for name, samples in CASES.items():
        scores = [fastgen.wasserstein(samples[:n], data[:n], method=method) for n in counts]
        axis.loglog(counts, scores, "o-", color="0.5" if name == "fresh data" else None, label=name)
    axis.set(xlabel="points of each", title=f'method="{method}"')
    axis.grid(color="0.92")
axes[0].set_ylabel("W2")
axes[1].legend(frameon=False, fontsize=8)
plt.show()
