"""What a solver's samples are held against: exact endpoints, exact samples, their floors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import fastgen
from benchmarks.problems.exact import Problem
from benchmarks.tools.rows import Row, row
from fastgen.generation import frechet_distance
from fastgen.schedules import Rectified

SUITE = "quality"
DIRECTIONS = 256
# The grid of exact endpoints on variance-preserving paths.
GRID = "log_snr"
GRIDS = (GRID, "karras", "uniform")


def sliced_w2(x: Tensor, y: Tensor) -> float:
    """Root mean square over random directions of the 1-D Wasserstein-2 distance."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(x.shape[1], DIRECTIONS, generator=generator, dtype=torch.float64)
    directions /= directions.norm(dim=0)
    a, b = (x @ directions).sort(0).values, (y @ directions).sort(0).values
    return math.sqrt((a - b).square().mean().item())


class Judge:
    """The initial noises, the exact endpoints and the exact samples of one problem.

    Args:
        grid: of the exact endpoints.
    """

    def __init__(self, problem: Problem, batch: int, seeds: int, grid: str = GRID) -> None:
        self.problem, schedule, self.grid = problem, problem.schedule, grid
        self.shape = batch, problem.dimension
        straight = isinstance(schedule, Rectified)  # whose networks predict velocity
        net, predicts = (self._velocity, "velocity") if straight else (problem.denoise, "data")
        self.model = fastgen.Model(net, schedule, predicts, time_dtype=torch.float64)
        self.starts = [
            fastgen.randn(self.shape, seed=s, dtype=torch.float64) * schedule.sigma(1.0)
            for s in range(seeds)
        ]
        self.data = problem.samples(batch, 10**6)
        # Distances in law to exact samples.
        self.laws: dict[str, Callable[[Tensor, Tensor], Any]]
        self.laws = {"sliced_w2": sliced_w2, "w2": fastgen.wasserstein}
        if problem.dimension < batch:
            self.laws["frechet"] = frechet_distance

    def _velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """(x - D) / t, and at t = 0, where eps says nothing of x any more, -x."""
        return (x - self.problem.denoise(x, t)) / t[0] if t[0] > 0 else -x

    # Both take minutes in many dimensions, which a resumed run whose rows are there need not spend.
    @cached_property
    def endpoints(self) -> list[Tensor]:
        """Where the exact flow takes the initial noises."""
        return [
            fastgen.sample(self.model, z, "rk4", 200, timesteps=self.grid, dtype=torch.float64)
            for z in self.starts
        ]

    @cached_property
    def floors(self) -> dict[str, float]:
        """The distances between exact samples and other exact samples."""
        other = self.problem.samples(self.shape[0], 10**6 + 1)
        return {name: law(other, self.data) for name, law in self.laws.items()}

    def rows(
        self, case: str, provider: str, package: str, results: list[Tensor], drawn: bool, note: str
    ) -> Iterator[Row]:
        """The distances of what a solver made of the starts."""
        metrics = {name: [law(x, self.data) for x in results] for name, law in self.laws.items()}
        if not drawn:
            pairs = zip(results, self.endpoints, strict=True)
            metrics["rms"] = [(x - e).square().mean().sqrt().item() for x, e in pairs]
        for metric, values in metrics.items():
            yield row(
                SUITE, case, provider, package, self.shape, torch.float64, metric, "", values,
                floor=self.floors.get(metric, 0.0), note=with_error(note, values),
            )  # fmt: skip


def with_error(note: str, values: list[float]) -> str:
    """The note of a row with the standard error of the values' mean."""
    if len(values) < 2:
        return note
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{note}; s.e. {error:.2g}" if note else f"s.e. {error:.2g}"
