"""
Encode, mix, decode: from one digit to another
==============================================

The probability flow can be run from data to noise. Every digit then has a latent, from which the
same flow returns to the digit, and a point between two latents is a new digit between two others.
Mixing the pictures themselves, as the last row does with the second pair, only lays one over the
other.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import fastgen
from fastgen.datasets import load_digits
from fastgen.networks import ModulatedMLP
from fastgen.training import Flow, Settings, Trainer

# %%
# The network: a flow of the digits with labels, trained in ten seconds, or taken as another example
# left it.
digits = load_digits().train
objective = Flow()
torch.manual_seed(0)
network = ModulatedMLP((1, 8, 8), width=128, blocks=2, classes=10)
settings = Settings(steps=1200, learning_rate=2e-3)
trainer = Trainer(network, objective.loss, digits.images, settings, digits.labels)
checkpoint = Path("out/digits.safetensors")
if checkpoint.exists():
    trainer.resume(checkpoint)
trainer.run(checkpoint=checkpoint)
model = objective.model(trainer.average)

# %%
# Six pairs of held-out digits, and their latents. ``error`` says how well each comes back.
held_out = load_digits().held_out_a
first = torch.stack([held_out.images[held_out.labels == a][3] for a in (0, 1, 3, 4, 5, 7)])
second = torch.stack([held_out.images[held_out.labels == b][5] for b in (6, 4, 8, 9, 3, 2)])
a, b = (fastgen.invert(model, x, "heun", 40) for x in (first, second))
print(f"digits come back up to {float(torch.cat([a.error, b.error]).max()):.0e} per pixel")

# %%
# Latents are normal, so that one mixes them on a great circle, which keeps their length.
steps = torch.linspace(0, 1, 9)
mixed = torch.stack([fastgen.interpolate(a.latent, b.latent, w) for w in steps.tolist()], 1)
between = fastgen.Sampler(model, a.sampling)(mixed.flatten(0, 1)).reshape(6, 9, 8, 8)
weights = steps[:, None, None]
laid_over = (1 - weights) * first[1] + weights * second[1]

figure, axes = plt.subplots(7, 9, figsize=(7.2, 5.6), layout="constrained")
rows = torch.cat([between, laid_over[None]])
for axis, image in zip(axes.flat, rows.flatten(0, 1), strict=True):
    axis.imshow(-image, cmap="gray", vmin=-1, vmax=1)
    axis.set(xticks=[], yticks=[])
axes[2, 0].set_ylabel("latents mixed")
axes[6, 0].set_ylabel("pixels")
plt.show()
