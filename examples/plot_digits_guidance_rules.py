"""
Rules of guidance
=================

At a large scale plain guidance drives pixels out of the range of the data. Published rules keep the
push towards the label and change what else comes with it: each weighs the network's outputs by
their inner products, sample by sample. Eight rules on one network, one noise and one scale.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import fastgen
from fastgen import rules
from fastgen.datasets import load_digits
from fastgen.networks import ModulatedMLP
from fastgen.training import Flow, Settings, Trainer

# %%
# The network: a flow of the digits with labels, trained in ten seconds, or taken as another example
# left it. The label 10 means "none".
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
# The rules, all with the scale 6. The last is written here: the closer c and u are in direction,
# the less it adds.


def by_angle(gram, t):
    """Weights of c and u from their inner products."""
    angle = gram[:, 0, 1] / (gram[:, 0, 0] * gram[:, 1, 1]).sqrt()
    extra = 20.0 * (1 - angle)
    return torch.stack([1 + extra, -extra], 1)


RULES = {
    "cfg": "cfg",
    "rescale": "rescale",
    "APG": rules.APG(eta=0.0),
    "APG, norm 2": rules.APG(eta=0.0, norm=2.0, momentum=-0.3),
    "tcfg": "tcfg",
    "zero_star": "zero_star",
    "mambo": rules.MagnitudeAware(alpha=1.0),
    "by_angle": by_angle,
}
labels = torch.arange(10)
none = torch.full_like(labels, 10)
figure, axes = plt.subplots(len(RULES), 10, figsize=(7.5, 6.2), layout="constrained")
for row, (name, rule) in zip(axes, RULES.items(), strict=True):
    guidance = fastgen.Guidance(6.0, {"labels": none}, rule=rule)
    kwargs = {"guidance": guidance, "net_kwargs": {"labels": labels}}
    images = fastgen.sample(model, (10, 1, 8, 8), "heun", 12, seed=3, **kwargs)
    for axis, image in zip(row, images[:, 0], strict=True):
        axis.imshow(-image, cmap="gray", vmin=-1, vmax=1)
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")

# %%
# What each costs and brings, on four hundred digits: how many are named by their label by the
# nearest neighbour in the training data, and how many pixels leave the data's range [-1, 1].
many = torch.arange(10).repeat_interleave(40)
right, outside = [], []
for rule in RULES.values():
    guidance = fastgen.Guidance(6.0, {"labels": torch.full_like(many, 10)}, rule=rule)
    kwargs = {"guidance": guidance, "net_kwargs": {"labels": many}}
    x = fastgen.sample(model, (400, 1, 8, 8), "heun", 8, seed=4, **kwargs)
    nearest = torch.cdist(x.flatten(1), digits.images.flatten(1)).argmin(1)
    right.append(float((digits.labels[nearest] == many).double().mean()))
    outside.append(float((x.abs() > 1.2).double().mean()))
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
bars = axis.barh(list(RULES), outside, color="tab:red")
axis.bar_label(bars, [f"{share:.1%} named by their label" for share in right], padding=4)
axis.set(xlabel="share of pixels beyond 1.2", xlim=(0, 1.6 * max(outside)))
axis.invert_yaxis()
plt.show()
