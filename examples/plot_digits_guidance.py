"""
Guidance: from variety to type
==============================

Classifier-free guidance pushes a sample away from what the network would draw without a label, by
a scale. At 0 the label does not count, at 1 it counts as trained, above that digits become more
and more the type of their class, with more contrast, until pixels leave the range of the data.
Each column is one label and one noise, seen through all scales.
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
# The label 10 means "none": a tenth of the training labels were replaced by it.
labels = torch.arange(10)
none = torch.full_like(labels, 10)
SCALES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
rows = []
for scale in SCALES:
    guidance = fastgen.Guidance(scale, unconditional={"labels": none})
    kwargs = {"guidance": guidance, "net_kwargs": {"labels": labels}}
    rows.append(fastgen.sample(model, (10, 1, 8, 8), "heun", 12, seed=3, **kwargs))
figure, axes = plt.subplots(6, 10, figsize=(7.5, 4.8), layout="constrained")
for axis, image in zip(axes.flat, torch.cat(rows)[:, 0], strict=True):
    axis.imshow(-image, cmap="gray", vmin=-1, vmax=1)
    axis.set(xticks=[], yticks=[])
for axis, scale in zip(axes[:, 0], SCALES, strict=True):
    axis.set_ylabel(f"{scale:g}", rotation=0, ha="right", va="center")
figure.supylabel("guidance scale")

# %%
# Four hundred digits for each scale. A digit is named by its nearest neighbour in the training
# data; pixels of the data lie in [-1, 1].
many = torch.arange(10).repeat_interleave(40)
right, outside = [], []
for scale in SCALES:
    guidance = fastgen.Guidance(scale, unconditional={"labels": torch.full_like(many, 10)})
    kwargs = {"guidance": guidance, "net_kwargs": {"labels": many}}
    x = fastgen.sample(model, (400, 1, 8, 8), "heun", 8, seed=4, **kwargs)
    nearest = torch.cdist(x.flatten(1), digits.images.flatten(1)).argmin(1)
    right.append(float((digits.labels[nearest] == many).double().mean()))
    outside.append(float((x.abs() > 1.2).double().mean()))
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
axis.plot(SCALES, right, "o-", color="tab:blue", label="digits with their label")
axis.plot(SCALES, outside, "s-", color="tab:red", label="pixels beyond 1.2")
axis.set(xlabel="guidance scale", ylabel="share", ylim=(-0.02, 1.02))
axis.legend(frameon=False, loc="center right")
plt.show()
