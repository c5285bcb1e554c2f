"""
A plan fitted to a network
==========================

A built-in solver does not know the network that it is used with. Here a race finds the built-in
that comes nearest to the flow of a small network of digits in five evaluations, and
:func:`fastgen.tune` starts from there: coefficients by least squares for every step, then
coefficients and times by Gauss-Newton steps of the whole run. The network is evaluated as often as
before, and the digits are nearer to where the flow would take them.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import fastgen
from fastgen.datasets import load_digits
from fastgen.networks import ModulatedMLP
from fastgen.training import Flow, Settings, Trainer

# %%
# The network is that of the other examples, trained in ten seconds or taken as one of them left it.
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
# The race: rms to the end of the flow, over all samples and of the median sample.
options = {"net_kwargs": lambda ids: {"labels": ids % 10}}
SOLVERS = ["adams_bashforth", "dpmpp_2m", "euler", "heun", "midpoint", "stork", "unipc"]
race = fastgen.race(
    model, (1, 8, 8), 5, solvers=SOLVERS, timesteps=["uniform", "quadratic"], **options
)
print(race)

# %%
# Two fits from the winner: the closed form alone, and the whole run after it.
plans = {"Euler": fastgen.plan("euler", model.schedule, 5), "best built-in": race.best}
plans["least squares"] = fastgen.tune(
    model, (1, 8, 8), base=race.best, samples=192, held_out=64, iterations=0, **options
)
plans["whole run"], report = fastgen.tune(
    model,
    (1, 8, 8),
    base=race.best,
    samples=192,
    held_out=64,
    report=True,
    **options,
)
print(report)
print(plans["whole run"])

# %%
# Each from the same noise, which no fit has seen, beside the end of the flow; dark is far from it.
labels = torch.arange(10)
exact = fastgen.sample(model, (10, 1, 8, 8), "unipc", 100, seed=5, net_kwargs={"labels": labels})
figure, axes = plt.subplots(5, 2, figsize=(8, 5.2), layout="constrained")
errors = {}
for row, (name, plan) in zip(axes, plans.items(), strict=False):
    x = fastgen.Sampler(model, plan)((10, 1, 8, 8), seed=5, labels=labels)
    away = x - exact
    errors[name] = float(away.square().mean().sqrt())
    row[0].imshow(-x[:, 0].transpose(0, 1).reshape(8, 80), cmap="gray", vmin=-1, vmax=1)
    row[1].imshow(away.abs()[:, 0].transpose(0, 1).reshape(8, 80), cmap="gray_r", vmin=0, vmax=0.1)
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    row[1].set_title(f"rms {errors[name]:.4f}", fontsize=9, pad=2)
axes[4, 0].imshow(-exact[:, 0].transpose(0, 1).reshape(8, 80), cmap="gray", vmin=-1, vmax=1)
axes[4, 0].set_ylabel("exact flow", rotation=0, ha="right", va="center")
axes[4, 1].set_axis_off()
axes[0, 0].set_title("five evaluations")
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])

# %%
# Where the network is evaluated, and what every step reads of its past.
figure = plans["whole run"].plot()
plt.show()
