"""
The posterior of a simulator
============================

A ball is thrown with unknown speed and angle, and lands at a distance that is measured. What were
speed and angle? A flow of parameters that is told the observation learns the posterior from
simulations alone, and answers for any observation without further training. Here the posterior is
known up to its normalisation, and drawn as contours: steep and flat throws reach the same place,
so that it is a curved band.
"""

import math

import matplotlib.pyplot as plt
import torch

import fastgen
from fastgen.networks import MLP
from fastgen.training import Settings, Trainer, losses, paths

# %%
# The simulator. Parameters are uniform on [-1, 1]: speeds of 5 to 15 m/s, angles of 10 to 80
# degrees. The distance is measured up to 0.7 m.
ERROR = 0.7


def distance(theta):
    """Where the throws [..., 2] land, in metres."""
    speed, angle = 10 + 5 * theta[..., 0], math.radians(45) + math.radians(35) * theta[..., 1]
    return speed**2 * (2 * angle).sin() / 9.81


generator = torch.Generator().manual_seed(0)
theta = 2 * torch.rand(20_000, 2, generator=generator) - 1
seen = distance(theta) + ERROR * torch.randn(20_000, generator=generator)


# %%
# The network reads parameters and observation, and gives the velocity of the parameters.
class Posterior(torch.nn.Module):
    """Velocity [B, 2] of parameters x [B, 2] at times t [B], given distances [B]."""

    def __init__(self):
        super().__init__()
        self.network = MLP(shape=(3,), widths=(128, 128, 128), activation="silu")

    def forward(self, x, t, seen):
        """See the class."""
        return self.network(torch.cat([x, seen[:, None] / 10 - 1], 1), t)[:, :2]


path = paths.Target()


def loss(network, batch):
    """Flow matching of parameters, each with its own observation."""
    parameters = batch.data[:, :2].contiguous()
    sample = path.sample(None, parameters, seed=batch.seed, step=batch.step)
    return losses.flow_matching(network(sample.x_t, sample.t, batch.data[:, 2]), sample)


torch.manual_seed(0)
settings = Settings(steps=1200, batch=256, learning_rate=5e-3, average=0.99)
trainer = Trainer(Posterior(), loss, torch.cat([theta, seen[:, None]], 1), settings)
trainer.run()
schedule = fastgen.schedules.Rectified()
model = fastgen.Model(trainer.average, schedule, "velocity", data_at=1, per_sample=["seen"])

# %%
# Samples for three observations, over contours that hold half and nine tenths of the true
# posterior. The share of samples inside of the outer one should be 0.9.
line = torch.linspace(-1, 1, 161)
grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained", sharex=True, sharey=True)
for axis, metres in zip(axes, (4.0, 9.0, 16.0), strict=True):
    kwargs = {"seen": torch.full((1000,), metres)}
    x = fastgen.sample(model, (1000, 2), "heun", 20, seed=1, net_kwargs=kwargs)
    density = (-((distance(grid) - metres) ** 2) / (2 * ERROR**2)).exp()
    ordered = density.flatten().sort(descending=True).values
    held = ordered.cumsum(0) / ordered.sum()
    levels = [float(ordered[(held < share).sum()]) for share in (0.9, 0.5)]
    speed, angle = 10 + 5 * line, 45 + 35 * line
    axis.contour(speed, angle, density.T, levels, colors=["tab:orange", "tab:red"])
    axis.scatter(10 + 5 * x[:, 0], 45 + 35 * x[:, 1], s=3, color="tab:blue", linewidths=0)
    near = (-((distance(x) - metres) ** 2) / (2 * ERROR**2)).exp()
    inside = float(((near > levels[0]) & (x.abs() <= 1).all(1)).double().mean())
    axis.set(title=f"landed at {metres:g} m: {inside:.2f} inside", xlabel="speed, m/s")
axes[0].set_ylabel("angle, degrees")
plt.show()
