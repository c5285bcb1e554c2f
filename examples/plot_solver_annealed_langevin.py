"""
Annealed Langevin dynamics
==========================

The first score-based models (Song and Ermon 2019, arXiv 1907.05600) were not sampled by following
a path, but by shaking: at each of twenty noise levels, from the largest to the smallest, a few
steps of Langevin dynamics with the score of that level. The cloud settles onto the two moons only
in the last levels.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import fastgen
from fastgen.datasets import load
from fastgen.networks import MLP
from fastgen.training import Settings, Trainer, losses

# %%
# The score at noise levels from 0.05 to 5: network(x / sqrt(1 + sigma^2), log sigma) / sigma, so
# that what the network sees and gives is of order one at all of them.
SMALLEST, LARGEST, LEVELS = 0.05, 5.0, 20
sigmas = torch.logspace(0, 1, LEVELS, LARGEST / SMALLEST).double() * SMALLEST


class Score(nn.Module):
    """The score [B, 2] of x [B, 2] at noise levels sigma [B]."""

    def __init__(self):
        super().__init__()
        self.network = MLP(widths=(128, 128, 128), activation="silu")

    def forward(self, x, sigma):
        """See the class."""
        wide = sigma[:, None]
        return self.network(x / (1 + wide**2).sqrt(), sigma.log()) / wide


def loss(network, batch):
    """Denoising score matching at all levels."""
    return losses.annealed(network, batch.data, sigmas, seed=batch.seed, step=batch.step)


points = load("moons").samples
torch.manual_seed(0)
settings = Settings(steps=1200, batch=256, average=0.99, learning_rate=4e-3, clip=5.0)
trainer = Trainer(Score(), loss, points[:18_000], settings)
trainer.run()
schedule = fastgen.schedules.VE(SMALLEST, LARGEST)
model = fastgen.Model(trainer.average, schedule, "score", time_input="sigma")

# %%
# Twenty steps of Langevin dynamics at each level.
x, states = fastgen.sample(
    model,
    (2000, 2),
    "annealed_langevin",
    LEVELS,
    corrector_steps=20,
    step_size=0.1,
    trajectory=True,
)
held_out, others = points[18_000:19_000], points[19_000:]
apart, floor = (fastgen.wasserstein(y, held_out) for y in (x[:1000], others))
print(f"W2 to held-out data: of samples {apart:.3f}, of other data {floor:.3f}")
figure, axes = plt.subplots(1, 5, figsize=(12, 2.7), layout="constrained")
panels = {f"after level {k}": states[k] for k in (0, 10, 15)} | {
    "samples": x,
    "data": points[:2000],
}
for axis, (title, cloud) in zip(axes, panels.items(), strict=True):
    axis.scatter(*cloud.T, s=2, color="0.5" if title == "data" else "tab:blue", linewidths=0)
    axis.set(aspect="equal", xlim=(-4, 4), ylim=(-4, 4), xticks=[], yticks=[], title=title)
plt.show()
