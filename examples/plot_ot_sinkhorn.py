"""
Entropic plans from sharp to blurred
====================================

Sinkhorn's algorithm finds a transport plan that is spread by an entropy. With little of it the
plan is near the optimal pairing, with much of it every point goes everywhere. Each panel draws
partners from the plan of one regularisation, given as a part of the mean cost; the plan itself is
never formed, ``sample_pairs`` draws from its potentials.
"""

import matplotlib.pyplot as plt
import torch

import fastgen

# %%
# A ring and a cross of 200 points each, side by side.
generator = torch.Generator().manual_seed(0)
angle = 2 * torch.pi * torch.rand(200, generator=generator)
radius = 1 + 0.06 * torch.randn(200, generator=generator)
ring = torch.stack([radius * angle.cos() - 1.6, radius * angle.sin()], 1)
along = 2 * torch.rand(200, generator=generator) - 1
across = 0.06 * torch.randn(200, generator=generator)
upright = torch.arange(200) % 2 == 0
cross = torch.where(
    upright[:, None], torch.stack([across, along], 1), torch.stack([along, across], 1)
) + torch.tensor([1.6, 0.0])

# %%
# One partner for every point of the ring, and the image of the plan: where the ring goes on
# average.
figure, axes = plt.subplots(2, 4, figsize=(11, 3.6), layout="constrained")
for (top, bottom), reg in zip(axes.T, (0.002, 0.02, 0.1, 1.0), strict=True):
    result = fastgen.couplings.sinkhorn(ring, cross, reg, reg_scale="mean_cost")
    i, j = fastgen.couplings.sample_pairs(result, seed=1)
    top.plot(*torch.stack([ring[i], cross[j]]).permute(2, 0, 1), color="0.6", lw=0.4, zorder=0)
    rows = result.plan()
    mean = (rows / rows.sum(1, keepdim=True)).float() @ cross
    for axis in (top, bottom):
        axis.scatter(*ring.T, s=4, c=angle, cmap="twilight", linewidths=0)
        axis.set(aspect="equal", xticks=[], yticks=[], xlim=(-2.8, 2.8), ylim=(-1.3, 1.3))
    top.scatter(*cross.T, s=4, color="black", linewidths=0)
    bottom.scatter(*cross.T, s=4, color="0.85", linewidths=0)
    bottom.scatter(*mean.T, s=4, c=angle, cmap="twilight", linewidths=0)
    top.set_title(f"regularisation {reg:g}")
    bottom.set_xlabel(f"{result.iterations} sweeps")
axes[0, 0].set_ylabel("drawn pairs")
axes[1, 0].set_ylabel("mean partner")
plt.show()
