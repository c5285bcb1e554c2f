"""
Colours of one photograph for another
=====================================

The colours of a photograph are a cloud of points in a cube. Optimal transport moves the cloud of
one picture to that of another with the least change in total: the flower in the colours of the
temple, and the temple in those of the flower. Two thousand colours of each picture are paired
exactly; all others move as their nearest neighbours do.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_sample_image

import fastgen

# %%
# The two photographs that come with scikit-learn, at a quarter of their size.
pictures = {
    name: torch.tensor(load_sample_image(f"{name}.jpg")[::4, ::4] / 255.0, dtype=torch.float32)
    for name in ("china", "flower")
}


def recoloured(picture, other, colours=2000, neighbours=8):
    """``picture`` with the colours of ``other``, [H, W, 3] both."""
    generator = torch.Generator().manual_seed(0)
    pixels, target = picture.reshape(-1, 3), other.reshape(-1, 3)
    x0 = pixels[torch.randperm(len(pixels), generator=generator)[:colours]]
    x1 = target[torch.randperm(len(target), generator=generator)[:colours]]
    moved = x1[fastgen.couplings.assign(x0, x1).permutation] - x0
    apart, nearest = torch.cdist(pixels, x0).topk(neighbours, largest=False)
    weights = (-apart / 0.03).softmax(1)[..., None]
    return (pixels + (weights * moved[nearest]).sum(1)).clamp(0, 1).reshape(picture.shape)


china, flower = pictures.values()
figure, axes = plt.subplots(2, 2, figsize=(8, 5.4), layout="constrained")
panels = (china, flower, recoloured(china, flower), recoloured(flower, china))
for axis, picture in zip(axes.flat, panels, strict=True):
    axis.imshow(picture.numpy())
    axis.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("photographs")
axes[1, 0].set_ylabel("each in the other's colours")

# %%
# The clouds that were paired: red against blue, every point in its colour.
figure, axes = plt.subplots(1, 2, figsize=(7, 3.5), layout="constrained", sharex=True, sharey=True)
for axis, (name, picture) in zip(axes, pictures.items(), strict=True):
    colours = picture.reshape(-1, 3)[::7].numpy()
    axis.scatter(colours[:, 0], colours[:, 2], s=2, c=colours, linewidths=0)
    axis.set(title=name, xlabel="red", aspect="equal")
axes[0].set_ylabel("blue")
plt.show()
