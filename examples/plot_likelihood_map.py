"""
A map of the likelihood
=======================

A flow knows the density of what it draws: the change of volume along the way from a point back to
noise. ``log_likelihood`` integrates both together. Here it is asked on a grid, beside samples of
the same model and the density that the data really have, which is known here, so that one sees
how well a network of a few seconds of training knows it.
"""

import math

import matplotlib.pyplot as plt
import torch

import fastgen
from fastgen.networks import MLP
from fastgen.training import Flow, Settings, Trainer

# %%
# Data: three Gaussians of different widths and weights.
centres = torch.tensor([[-1.6, -0.8], [1.5, -1.0], [0.2, 1.5]])
widths, weights = torch.tensor([0.5, 0.3, 0.4]), torch.tensor([0.5, 0.2, 0.3])
generator = torch.Generator().manual_seed(0)
which = torch.multinomial(weights, 10_000, replacement=True, generator=generator)
noise = torch.randn(10_000, 2, generator=generator)
data = centres[which] + widths[which, None] * noise

objective = Flow()
torch.manual_seed(0)
network = MLP(widths=(128, 128, 128), activation="silu")
settings = Settings(steps=1000, batch=256, learning_rate=5e-3, average=0.99)
trainer = Trainer(network, objective.loss, data, settings)
trainer.run()
model = objective.model(trainer.average)

# %%
# The density on a grid, exact in the divergence, and the true one.
line = torch.linspace(-3.6, 3.6, 49)
grid = torch.cartesian_prod(line, line)
found = fastgen.log_likelihood(model, grid, rtol=1e-3, atol=1e-3).exp().float()
distances = torch.cdist(grid, centres) / widths
exact = (weights * (-(distances**2) / 2).exp() / (2 * math.pi * widths**2)).sum(1)
samples = fastgen.sample(model, (1500, 2), "heun", 20, seed=1)

figure, axes = plt.subplots(1, 3, figsize=(11, 3.7), layout="constrained", sharex=True, sharey=True)
axes[0].scatter(*samples.T, s=3, color="tab:blue", linewidths=0)
axes[0].set_title("samples")
levels = [0.002, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4]
for axis, density, title in (
    (axes[1], found, "density, by the flow"),
    (axes[2], exact, "the data's"),
):
    image = axis.imshow(
        density.reshape(49, 49).T, origin="lower", extent=[-3.6, 3.6] * 2, cmap="Blues", vmax=0.5
    )
    axis.contour(line, line, density.reshape(49, 49).T, levels, colors="0.3", linewidths=0.6)
    axis.set_title(title)
figure.colorbar(image, ax=axes[1:], shrink=0.9)
for axis in axes:
    axis.set(aspect="equal", xlim=(-3.6, 3.6), ylim=(-3.6, 3.6), xticks=[], yticks=[])
cell = float(line[1] - line[0]) ** 2
print(f"the map's integral is {float(found.sum()) * cell:.3f}")
print(f"half its distance from the true one: {float((found - exact).abs().sum()) * cell / 2:.3f}")
plt.show()
