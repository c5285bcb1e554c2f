"""
Digits restored, and how sure that is
=====================================

A flow that was trained on whole digits restores what it never saw: digits of which the upper half
is hidden, of which only means of two by two pixels are left, or that were blurred, all with noise.
Twelve samples of each agree with what was measured; their mean is the restoration and their
deviation, drawn last, says of each pixel how much was left open: the hidden half for the first, the
strokes' edges for the others.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import fastgen
from fastgen import observations
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
# Held-out digits of four classes, measured in three ways.
held_out = load_digits().held_out_a
chosen = torch.cat([(held_out.labels == k).nonzero()[:1, 0] for k in (2, 3, 5, 8)])
truth = held_out.images[chosen]
lower = torch.zeros(1, 8, 8, dtype=torch.bool)
lower[:, 4:] = True
maps = {
    "lower half": None,
    "2 x 2 means": observations.average_pool(2),
    "blurred": observations.gaussian_blur(0.9, size=5),
}
std = 0.1

# %%
# `restore` draws the samples of one observation. MMPS asks for the network's Jacobian, a few
# products for each step.
rows = []
for name, operator in maps.items():
    measured = truth if operator is None else operator(truth)
    y = measured + std * fastgen.randn(measured.shape, seed=1)
    for k in range(4):
        if operator is None:
            seen = observations.Mask(y[k : k + 1], lower, noise=std)
            shown = torch.where(lower, y[k], torch.full_like(y[k], -0.5))
        else:
            seen = observations.Linear(operator, y=y[k : k + 1], noise=std)
            shown = y[k]
        found = fastgen.control.restore(model, seen, (1, 8, 8), 12, steps=30, seed=k)
        rows.append((name, truth[k], shown, found))
    errors = [(r.mean - t).square().mean() for _, t, _, r in rows[-4:]]
    psnr = 10 * torch.log10(4 / torch.stack(errors)).mean()
    print(f"{name}: the means are at {psnr:.1f} dB, samples deviate by {found.std.mean():.2f}")

# %%
# For each digit: the truth, what was measured of it, two samples, the mean, the deviation.
titles = ("truth", "measured", "sample", "sample", "mean", "deviation")
figure, axes = plt.subplots(12, 6, figsize=(5.4, 10.2), layout="constrained")
for line, (name, whole, shown, found) in zip(axes, rows, strict=True):
    pictures = (whole, shown, *found.samples[:2], found.mean)
    for axis, picture in zip(line, pictures, strict=False):
        axis.imshow(-picture[0], cmap="gray", vmin=-1, vmax=1)
    line[5].imshow(found.std[0], cmap="magma", vmin=0, vmax=0.8)
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
for axis, title in zip(axes[0], titles, strict=True):
    axis.set_title(title, fontsize=9)
plt.show()
