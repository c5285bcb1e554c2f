"""
One step: flow matching, MeanFlow and consistency
=================================================

Three networks of one size learn the two moons in the same number of steps. A velocity is right
where it is asked for, and one long step of it ends near the mean of the data. MeanFlow learns the
average velocity between any two times, so that one step is the whole way (Geng et al. 2025,
arXiv 2505.13447). A consistency model jumps to the data from every noise level (Song and Dhariwal
2024, 2310.14189). The training is short: none of the three has converged.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import fastgen
from fastgen.datasets import load
from fastgen.networks import MLP
from fastgen.training import Flow, Settings, Trainer, losses, paths

points = load("moons").samples
points = points - points.mean(0)
data, held_out, other = points[:18_000], points[18_000:19_000], points[19_000:]
settings = Settings(steps=600, batch=256, learning_rate=5e-3, average=0.99)


def trained(network, loss):
    """The averaged network after the same number of steps."""
    trainer = Trainer(network, loss, data, settings)
    trainer.run()
    return trainer.average


# %%
# Flow matching, with the velocity of lines from noise to data.
flow = Flow()
torch.manual_seed(0)
velocity = flow.model(trained(MLP(widths=(64, 64, 64), activation="silu"), flow.loss))


# %%
# MeanFlow: the network is told the ends t and r of an interval. For half of the rows r = t, where
# the average velocity is the velocity itself.
class Average(nn.Module):
    """The average velocity [B, 2] from x [B, 2] at t [B] to r [B]."""

    def __init__(self):
        super().__init__()
        self.network = MLP((3,), (64, 64, 64), "silu")

    def forward(self, x, t, r):
        """See the class."""
        return self.network(torch.cat([x, (r - t)[:, None]], 1), t)[:, :2]


path = paths.Linear()


def mean_flow(network, batch):
    """The loss of a step: path samples, and a second time for each."""
    noise = fastgen.randn(batch.data.shape, seed=1, draw=batch.step)
    sample = path.sample(noise, batch.data, seed=batch.seed, step=batch.step)
    u = torch.rand(len(noise), generator=torch.Generator().manual_seed(batch.step))
    r = losses.interval_ends(sample.t, u, share=0.5)
    return losses.mean_flow(network, sample, r, power=0)


torch.manual_seed(0)
rectified = fastgen.schedules.Rectified()
average = fastgen.Model(trained(Average(), mean_flow), rectified, "average_velocity", data_at=1)

# %%
# Consistency: outputs at neighbouring noise levels agree. The levels become denser in training, and
# those near 0.6 are drawn most often.
LOW, HIGH, RHO = 0.02, 10.0, 7.0


def consistency(network, batch):
    """The loss of a step: 8 intervals of levels at first, 64 at the end."""
    count = 8 * 2 ** min(3, 5 * batch.step // settings.steps)
    levels = torch.linspace(LOW ** (1 / RHO), HIGH ** (1 / RHO), count + 1).double() ** RHO
    low, high = levels[:-1], levels[1:]
    often = (-((low / 0.6).log() ** 2) / 4).exp() * (high / low).log()
    generator = torch.Generator().manual_seed(batch.step)
    k = torch.multinomial(often, len(batch.data), replacement=True, generator=generator)
    key = {"seed": batch.seed, "step": batch.step}
    return losses.consistency(network, batch.data, low[k], high[k], **key)


torch.manual_seed(0)
inner = MLP(widths=(64, 64, 64), activation="silu")
jumps = fastgen.Model(
    trained(losses.Boundary(inner, sigma_data=1.0, sigma_min=LOW), consistency),
    fastgen.schedules.EDM(sigma_min=LOW, sigma_max=HIGH, sigma_data=1.0),
    "data",
    time_input="sigma",
)

# %%
# Samples by one evaluation, by two and by eight, and their distance to other data. Between its
# jumps a consistency model returns to the noise levels that are given.
METHODS = {
    "flow matching": (velocity, "euler"),
    "MeanFlow": (average, "mean_flow"),
    "consistency": (jumps, "consistency"),
}
LEVELS = {1: (), 2: (0.7,), 8: (5.0, 2.5, 1.5, 1.0, 0.6, 0.4, 0.2)}
figure, axes = plt.subplots(3, 4, figsize=(10, 5.4), layout="constrained")
for row, (name, (model, solver)) in zip(axes, METHODS.items(), strict=True):
    for axis, (steps, levels) in zip(row, LEVELS.items(), strict=False):
        between = [model.schedule.time_at_ratio(level) for level in levels]
        grid = [1.0, *between, 0.0] if model is jumps else "uniform"
        x = fastgen.sample(model, (1000, 2), solver, steps, timesteps=grid, seed=2)
        apart = fastgen.wasserstein(x, held_out)
        axis.scatter(*x.T, s=3, color="tab:blue", linewidths=0)
        axis.set_title(f"{steps} evaluation{'s' * (steps > 1)}: W2 {apart:.2f}", fontsize=10)
    row[0].set_ylabel(name)
    row[3].scatter(*other.T, s=3, color="0.5", linewidths=0)
    row[3].set_title(f"other data: W2 {fastgen.wasserstein(other, held_out):.2f}", fontsize=10)
for axis in axes.flat:
    axis.set(aspect="equal", xticks=[], yticks=[], xlim=(-4, 4), ylim=(-2.4, 2.4))
plt.show()
