"""
Inpainting with a mask
======================

A flow that has never seen a mask fills in what is missing. After every step a callback overwrites
the known pixels of the state with the known digit, brought to the noise of that time, and the run
goes on from there (replacement, Lugmayr et al. 2022, arXiv 2201.09865, without resampling). The
lower half of each digit is drawn anew, four times: all versions agree with what is known and
differ where it leaves a choice.
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
# Held-out digits of all classes, of which the upper half is known. The network is told no label.
held_out = load_digits().held_out_a
chosen = torch.cat([(held_out.labels == k).nonzero()[:1, 0] for k in range(10)])
known = held_out.images[chosen].repeat(4, 1, 1, 1)
mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
mask[..., :4, :] = True


def replace_known(step):
    """Write the known pixels at this step's time, alpha x_0 + sigma eps, into the state."""
    alpha, sigma = model.schedule.alpha(step.time), model.schedule.sigma(step.time)
    noise = fastgen.randn(known.shape, seed=1, draw=step.index)
    step.state.copy_(torch.where(mask, alpha * known + sigma * noise, step.state))


x = fastgen.sample(model, tuple(known.shape), "flow_sde", 250, seed=2, callback=replace_known)

# %%
# The first two rows are the whole digit and what was given of it.
hidden = torch.where(mask, known[:10], torch.full_like(known[:10], -0.5))
sheet = torch.cat([known[:10], hidden, x])[:, 0].reshape(6, 10, 8, 8)
figure, axes = plt.subplots(6, 10, figsize=(7.5, 4.6), layout="constrained")
for axis, image in zip(axes.flat, sheet.flatten(0, 1), strict=True):
    axis.imshow(-image, cmap="gray", vmin=-1, vmax=1)
    axis.set(xticks=[], yticks=[])
names = ("digit", "given", *["filled in"] * 4)
for axis, name in zip(axes[:, 0], names, strict=True):
    axis.set_ylabel(name, rotation=0, ha="right", va="center")
plt.show()
