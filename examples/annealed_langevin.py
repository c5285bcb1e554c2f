"""A score model of a checkerboard, sampled by annealed Langevin dynamics.

Song and Ermon 2019 (arXiv 1907.05600): one network learns the score at every noise level, and
sampling runs Langevin dynamics at each in turn, from the largest to the smallest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import fastgen
from examples.common import arguments, panels
from fastgen.datasets import load
from fastgen.demo.train import one_thread
from fastgen.networks import ModulatedMLP
from fastgen.training import Batch, Settings, Trainer, losses

SMALLEST, LARGEST, LEVELS = 0.05, 5.0, 20


class Score(nn.Module):
    """network(x / sqrt(1 + sigma^2), log sigma) / sigma: of order one inside."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ModulatedMLP((2,), 64, 3, time_scale=4.0)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The score [B, 2] at noise levels sigma [B]."""
        wide = sigma[:, None]
        output: Tensor = self.network(x / (1 + wide**2).sqrt(), sigma.log())
        return output / wide


@one_thread()
def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """W2 to the data, of the samples and of other data; writes annealed-langevin.png."""
    summary = "Langevin dynamics on a checkerboard"
    options = arguments("annealed_langevin", summary, 3000, argv, points=1000)
    if options.points > 1000:
        raise ValueError(f"points={options.points}: expected at most 1000, as many as are held out")
    board = load("checkerboard").samples
    sigmas = torch.logspace(0, 1, LEVELS, LARGEST / SMALLEST).double() * SMALLEST

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        return losses.annealed(network, batch.data, sigmas, seed=batch.seed, step=batch.step)

    settings = Settings(steps=options.steps, batch=256, average=0.99, clip=5.0, seed=options.seed)
    trainer = Trainer(Score(), loss, board[:18_000], settings)
    trainer.run()
    schedule = fastgen.schedules.VE(SMALLEST, LARGEST)
    model = fastgen.Model(trainer.average, schedule, "score", time_input="sigma")
    x, states = fastgen.sample(
        model,
        (options.points, 2),
        "annealed_langevin",
        LEVELS,
        corrector_steps=20,
        step_size=0.1,
        trajectory=True,
        seed=options.seed,
    )
    held_out, others = board[18_000:][: options.points], board[19_000:][: options.points]
    found = {
        "samples": fastgen.wasserstein(x, held_out),
        "other data": fastgen.wasserstein(others, held_out),
        "noise": fastgen.wasserstein(states[0], held_out),
    }
    print("W2 to held-out data: " + ", ".join(f"{k} {v:.3f}" for k, v in found.items()))
    shown = {f"after level {k}": (states[k], None) for k in (0, LEVELS // 2, LEVELS - 4)}
    panels(
        {**shown, "samples": (x, None), "data": (held_out, None)},
        options.out / "annealed-langevin.png",
        3.0,
    )
    return found


if __name__ == "__main__":
    main()
