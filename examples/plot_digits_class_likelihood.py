"""
Which digit is it? Ask the likelihood
=====================================

One flow of all digits, told the label, has for each picture ten likelihoods: log p(x | c) with each
label c. Bayes' rule with equal classes names the largest. No classifier was trained. The chart
shows the posterior over classes for twelve held-out digits, those in red named wrongly.
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
# Ten likelihoods for each of 36 held-out digits, with the same probes of the divergence for all
# classes, so that they can be compared.
held_out = load_digits().held_out_a
generator = torch.Generator().manual_seed(0)
chosen = torch.randperm(len(held_out.labels), generator=generator)[:36]
images, labels = held_out.images[chosen], held_out.labels[chosen]
columns = []
for c in range(10):
    found = fastgen.log_likelihood(
        model,
        images,
        divergence="hutchinson",
        probes=4,
        rtol=1e-2,
        atol=1e-2,
        net_kwargs={"labels": torch.full((36,), c)},
    )
    columns.append(found)
posterior = torch.stack(columns, 1).softmax(1)
named = posterior.argmax(1)
print(f"named rightly: {int((named == labels).sum())} of {len(labels)}")

# %%
# Pictures over their posteriors: those that are least certain first.
order = posterior.amax(1).argsort()[:12]
figure, axes = plt.subplots(
    2, 12, figsize=(12, 2.6), layout="constrained", height_ratios=(1, 1), sharey="row"
)
for (top, bottom), k in zip(axes.T, order.tolist(), strict=True):
    top.imshow(-images[k, 0], cmap="gray", vmin=-1, vmax=1)
    top.set(xticks=[], yticks=[], title=f"{int(labels[k])}")
    right = bool(named[k] == labels[k])
    bottom.bar(range(10), posterior[k], color="tab:blue" if right else "tab:red")
    bottom.set(xticks=(0, 5, 9), ylim=(0, 1), yticks=(0, 1))
axes[1, 0].set_ylabel("p(c | x)")
plt.show()
