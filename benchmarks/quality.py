"""Quality against network evaluations with exact scores: what is left is the solver's error.

The data is a mixture of Gaussians in d dimensions, whose denoiser is exact. Deterministic solvers
are compared with the exact endpoint of the probability-flow ODE from the same initial noise
(root mean square over samples and dimensions), all solvers by the sliced Wasserstein-2 distance
of their samples to exact ones; its floor is that of two exact sets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

import fastgen
from benchmarks.harness import Row, row
from fastgen.schedules import LinearVP, Schedule
from fastgen.solvers import table

COMPONENTS, DIRECTIONS, BATCH = 16, 256, 512
# Sampling stops where the noise is 1 % of the data; the last step, the same for all solvers, is
# the data prediction there.
GRID = "log_snr"


class Mixture:
    """Equal Gaussians around normal means, with a power-law spectrum of variances."""

    def __init__(self, dimension: int, schedule: Schedule) -> None:
        generator = torch.Generator().manual_seed(dimension)
        self.dimension, self.schedule = dimension, schedule
        self.means = torch.randn(COMPONENTS, dimension, generator=generator, dtype=torch.float64)
        self.variance = 0.25 * torch.arange(1, dimension + 1, dtype=torch.float64) ** -0.5

    def samples(self, count: int, seed: int) -> Tensor:
        """Exact samples [count, dimension]."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(COMPONENTS, (count,), generator=generator)
        z = torch.randn(count, self.dimension, generator=generator, dtype=torch.float64)
        return self.means[chosen] + self.variance.sqrt() * z

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t = x], x [B, dimension], one t for all."""
        time = t[0].item()
        alpha, sigma = self.schedule.alpha(time), self.schedule.sigma(time)
        total = alpha**2 * self.variance + sigma**2
        scaled = x / total
        # log N(x; alpha m, total) without what all components share.
        logits = alpha * scaled @ self.means.T - 0.5 * alpha**2 * (self.means**2 / total).sum(1)
        mean = logits.softmax(1) @ self.means
        gain = alpha * self.variance / total
        return mean + gain * (x - alpha * mean)


def sliced_w2(x: Tensor, y: Tensor) -> float:
    """Root mean square over random directions of the 1-D Wasserstein-2 distance."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(x.shape[1], DIRECTIONS, generator=generator, dtype=torch.float64)
    directions /= directions.norm(dim=0)
    a, b = (x @ directions).sort(0).values, (y @ directions).sort(0).values
    return math.sqrt((a - b).square().mean().item())


def rows(quick: bool) -> Iterator[Row]:
    """Every solver at several counts of evaluations; the median and spread are over seeds."""
    schedule = LinearVP()
    budgets = [10] if quick else [5, 10, 20, 50]
    for dimension in [64] if quick else [64, 3072]:
        mixture = Mixture(dimension, schedule)
        model = fastgen.Model(mixture.denoise, schedule, "data", time_dtype=torch.float64)
        seeds = range(1 if quick else 3)
        starts = [fastgen.randn((BATCH, dimension), seed=s, dtype=torch.float64) for s in seeds]
        exact = [
            fastgen.sample(model, z, "rk4", 200, timesteps=GRID, dtype=torch.float64)
            for z in starts
        ]
        data = mixture.samples(BATCH, 10**6)
        floor = sliced_w2(mixture.samples(BATCH, 10**6 + 1), data)
        for entry in table.rows():
            if fastgen.solvers.get(entry.name).two_times:
                continue
            for budget in budgets:
                steps = max(1, int(budget / entry.evaluations))
                plan = fastgen.plan(entry.name, schedule, steps, timesteps=GRID)
                while plan.nfe > budget and steps > 1:
                    steps -= 1
                    plan = fastgen.plan(entry.name, schedule, steps, timesteps=GRID)
                sampler = fastgen.Sampler(model, plan, dtype=torch.float64)
                results = [sampler(z, seed=s) for s, z in zip(seeds, starts, strict=True)]
                metrics = {"sliced_w2": [sliced_w2(x, data) for x in results]}
                if not plan.draws:
                    pairs = zip(results, exact, strict=True)
                    metrics["rms"] = [(x - e).square().mean().sqrt().item() for x, e in pairs]
                for metric, values in metrics.items():
                    yield row(
                        "quality",
                        f"mixture, {plan.nfe} evaluations",
                        entry.name,
                        "fastgen-torch",
                        (BATCH, dimension),
                        torch.float64,
                        metric,
                        "",
                        values,
                        floor=floor if metric == "sliced_w2" else 0.0,
                    )
