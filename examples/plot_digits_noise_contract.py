"""
Drawing sample 41 again
=======================

A sample is a function of its seed, its id and nothing else: not of the batch that it was in, of
the order, or of the number of threads. So one picture of a batch can be drawn again alone, with
its neighbours left out, on another machine. Other libraries draw the noise of a batch as one
block: there a picture depends on the size of the batch.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.nn import functional

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
# A batch of sixty digits by an SDE, which draws noise in every step; sample 41 is framed.
plan = fastgen.plan("ddim", model.schedule, 30, eta=1.0)
sampler = fastgen.Sampler(model, plan)
labels = torch.arange(60) % 10
batch = sampler((60, 1, 8, 8), seed=7, labels=labels)

# %%
# Alone, and among others in another order. The noise is the same bit for bit; what a network makes
# of it may differ in the last digit, as matrix products of other sizes are added up in another
# order.
alone = sampler((1, 1, 8, 8), seed=7, sample_ids=[41], labels=labels[[41]])
ids = [59, 41, 3]
others = sampler((3, 1, 8, 8), seed=7, sample_ids=ids, labels=labels[ids])
noise = fastgen.randn((60, 1, 8, 8), seed=7)
assert torch.equal(fastgen.randn((1, 1, 8, 8), seed=7, sample_ids=[41])[0], noise[41])
for name, x in (("alone", alone[0]), ("among others", others[1])):
    print(f"{name}: apart by {float((x - batch[41]).abs().max()):.0e}")

# %%
# Another seed gives another digit.
other = sampler((1, 1, 8, 8), seed=8, sample_ids=[41], labels=labels[[41]])

figure, axes = plt.subplot_mosaic(
    "BBBBAA\nBBBBCD", figsize=(8, 4), layout="constrained", width_ratios=[1] * 6
)
sheet = functional.pad(batch, (1, 1, 1, 1), value=-1)
sheet = sheet.reshape(6, 10, 10, 10).transpose(1, 2).reshape(60, 100)
axes["B"].imshow(-sheet, cmap="gray", vmin=-1, vmax=1)
axes["B"].add_patch(plt.Rectangle((9.5, 39.5), 10, 10, fill=False, color="tab:red", linewidth=2))
axes["B"].set_title("seed 7, samples 0 to 59")
strip = torch.cat(list(functional.pad(others, (1, 1, 1, 1), value=-1)[:, 0]), 1)
axes["A"].imshow(-strip, cmap="gray", vmin=-1, vmax=1)
axes["A"].add_patch(plt.Rectangle((9.5, -0.5), 10, 10, fill=False, color="tab:red", linewidth=2))
axes["A"].set_title("samples 59, 41, 3")
axes["C"].imshow(-alone[0, 0], cmap="gray", vmin=-1, vmax=1)
axes["C"].set_title("41 alone", color="tab:red")
axes["D"].imshow(-other[0, 0], cmap="gray", vmin=-1, vmax=1)
axes["D"].set_title("41 of seed 8")
for axis in axes.values():
    axis.set(xticks=[], yticks=[])
plt.show()
