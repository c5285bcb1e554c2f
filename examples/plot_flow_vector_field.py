"""
A velocity field, over time
===========================

A flow is a field of velocities that changes with time. Early it points to the middle of the data,
as from pure noise every sample is still possible; later it splits, and in the end each arrow leads
to the nearest part of the data. The points move along it, all from one batch of noise.
"""

import matplotlib.pyplot as plt
import torch

import fastgen
from fastgen.datasets import load
from fastgen.networks import MLP
from fastgen.training import Flow, Settings, Trainer

# %%
# Flow matching on a letter S, in seconds.
data = load("scurve").samples
objective = Flow()
torch.manual_seed(0)
settings = Settings(steps=800, batch=256, learning_rate=5e-3, average=0.99)
trainer = Trainer(MLP(widths=(128, 128, 128), activation="silu"), objective.loss, data, settings)
trainer.run()
model = objective.model(trainer.average)

# %%
# The network has data at t = 1, and is asked directly on a grid of points. The sampler runs the
# same time from 1, noise, to 0, and reports the states in between.
x, states = fastgen.sample(model, (600, 2), "heun", 20, timesteps="uniform", trajectory=True)
line = torch.linspace(-3.4, 3.4, 18)
grid = torch.cartesian_prod(line, line)
figure, axes = plt.subplots(1, 5, figsize=(12, 2.7), layout="constrained", sharex=True, sharey=True)
for axis, index in zip(axes, (0, 6, 12, 16, 20), strict=True):
    t = min(index / 20, 0.98)
    with torch.no_grad():
        velocity = trainer.average(grid, torch.full((len(grid),), t))
    speed = velocity.norm(dim=1)
    arrows = velocity / (1 + speed[:, None])
    axis.quiver(*grid.T, *arrows.T, speed, cmap="Blues", clim=(-2, 6), scale=20, width=0.006)
    axis.scatter(*states[index].T, s=3, color="tab:orange", linewidths=0, zorder=2)
    axis.set(aspect="equal", xticks=[], yticks=[], title=f"t = {t:.1f}")
    axis.set(xlim=(-3.6, 3.6), ylim=(-3.6, 3.6))
plt.show()
