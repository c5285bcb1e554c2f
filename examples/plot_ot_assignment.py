"""
Optimal pairing, drawn
======================

Training by flow matching draws a noise and a sample and asks the network for the line between
them. Paired at random the lines cross, and where they cross the network has to average them.
``assign`` pairs two clouds so that the sum of squared distances is least; optimal lines do not
cross. The result carries a proof: ``gap`` bounds how far from optimal it may be.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import fastgen
from fastgen.datasets import eight_gaussians, moons

# %%
# Two clouds of 256 points each: eight Gaussians, and two moons.
rng = np.random.default_rng(0)
x0 = torch.from_numpy(eight_gaussians(256, rng)).float()
x1 = torch.from_numpy(3 * moons(256, rng) - 1).float()

best = fastgen.couplings.assign(x0, x1)
print(
    f"mean squared distance {best.cost / 256:.3f}; none is below it by {best.gap / best.cost:.0e}"
)

# %%
# The same points, paired as they come, within rank along a Hilbert curve, which takes
# O(n log n), and optimally.
PAIRINGS = {
    "as they come": torch.arange(256),
    "Hilbert curve": fastgen.couplings.Hilbert()(x0, x1)[1],
    "optimal": best.permutation,
}
figure, axes = plt.subplots(1, 3, figsize=(11, 3.9), layout="constrained", sharex=True, sharey=True)
for axis, (name, partner) in zip(axes, PAIRINGS.items(), strict=True):
    ends = torch.stack([x0, x1[partner]])
    axis.plot(*ends.permute(2, 0, 1), color="0.6", linewidth=0.5, zorder=0)
    axis.scatter(*x0.T, s=8, color="black", linewidths=0, label="source")
    axis.scatter(*x1.T, s=8, color="tab:blue", linewidths=0, label="data")
    cost = float((ends[0] - ends[1]).square().sum(1).mean())
    axis.set(aspect="equal", xticks=[], yticks=[], title=f"{name}: {cost:.1f}")
axes[0].legend(frameon=False, loc="upper right", markerscale=2)
plt.show()
