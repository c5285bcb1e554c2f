"""
Edits: another digit from the same hand
=======================================

A picture is changed to another condition in four ways: noised half way and sampled again (SDEdit),
along the difference of two velocities (FlowEdit), through a typical noise (RF-inversion), and by
an exact inversion. A classifier says how often the wanted digit came out, the distance how much of
the picture is left.
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
# Every digit of a held-out hand is to become the next one.
unseen = load_digits().held_out_a
x, labels = unseen.images[::2], unseen.labels[::2]
wanted = (labels + 1) % 10
sides = {"source": {"labels": labels}, "target": {"labels": wanted}}
given = {"net_kwargs": {"labels": wanted}}
inverted = fastgen.invert(model, x, "heun", 20, exact=True, net_kwargs={"labels": labels})
edits = {
    "SDEdit": fastgen.sample(model, x.shape, "dpmpp_2m", 20, data=x, start=0.7, **given),
    "FlowEdit": fastgen.flow_edit(model, x, 28, start=0.8, average=2, **sides),
    "RF-inversion": fastgen.rf_inversion(model, x, 28, eta=0.4, until=0.7, **sides),
    "exact inversion": inverted.resample(labels=wanted),
}

# %%
# What came out, as a classifier of two layers sees it, trained on slightly noisy digits.
torch.manual_seed(1)
judge = torch.nn.Sequential(
    torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.SiLU(), torch.nn.Linear(64, 10)
)
optimiser = torch.optim.AdamW(judge.parameters(), 5e-3)
for _ in range(400):
    chosen = torch.randint(len(digits.images), (128,))
    noisy = digits.images[chosen] + 0.2 * torch.randn(128, 1, 8, 8)
    loss = torch.nn.functional.cross_entropy(judge(noisy), digits.labels[chosen])
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
for name, y in edits.items():
    share = (judge(y).argmax(1) == wanted).float().mean()
    print(f"{name:16s} {share:4.0%} wanted digits, rms change {(y - x).square().mean().sqrt():.2f}")

first = [int((labels == label).nonzero()[0]) for label in range(10)]
figure, axes = plt.subplots(5, 1, figsize=(9, 5), layout="constrained")
for axis, (name, y) in zip(axes, {"given": x, **edits}.items(), strict=True):
    axis.imshow(-torch.cat([*y[first, 0]], dim=1), cmap="gray", vmin=-1, vmax=1)
    axis.set(xticks=[], yticks=[])
    axis.set_ylabel(name, rotation=0, ha="right", va="center")
plt.show()
