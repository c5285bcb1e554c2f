"""Quality against network evaluations: every solver at several budgets, beside the peers.

With exact denoisers (`problems`) what is left is the solver's error: the root mean square
distance to the exact endpoint of the probability-flow ODE from the same initial noise, over
samples and dimensions (deterministic solvers), and of all solvers the distances to exact samples:
Wasserstein-2 sliced and exact, and Fréchet's in the data space where there are more samples than
dimensions. Their floors are those of two exact sets. Medians, spreads and standard errors are over
seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

import fastgen
from benchmarks import digits_networks, quality_peers
from benchmarks.harness import Row, recorded, row, show_progress
from benchmarks.problems import EXACT, Problem, most_steps
from fastgen.cli import solvers_page as table
from fastgen.demo.report import frechet_distance
from fastgen.schedules import DiscreteVP, LinearVP

SUITE = "quality"
DIRECTIONS, BATCH, SEEDS = 256, 512, 3
BUDGETS = (4, 5, 6, 8, 10, 15, 20, 50)
# All solvers on this grid; on the others too but in many dimensions, where a run takes an hour.
GRID, OTHER_GRIDS, MANY = "log_snr", ("karras", "uniform"), "3072"
CHEAP = "mixture, d = 64"
# They draw from a consistency function or a bridge, which a denoiser is not.
OTHER_MODELS = {"bridge_sde", "consistency", "lcm", "tcd"}


def sliced_w2(x: Tensor, y: Tensor) -> float:
    """Root mean square over random directions of the 1-D Wasserstein-2 distance."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(x.shape[1], DIRECTIONS, generator=generator, dtype=torch.float64)
    directions /= directions.norm(dim=0)
    a, b = (x @ directions).sort(0).values, (y @ directions).sort(0).values
    return math.sqrt((a - b).square().mean().item())


class Judge:
    """The initial noises, the exact endpoints and the exact samples of one problem."""

    def __init__(self, problem: Problem, batch: int, seeds: int) -> None:
        self.problem, schedule = problem, problem.schedule
        self.shape = batch, problem.dimension
        self.model = fastgen.Model(problem.denoise, schedule, "data", time_dtype=torch.float64)
        self.starts = [
            fastgen.randn(self.shape, seed=s, dtype=torch.float64) * schedule.sigma(1.0)
            for s in range(seeds)
        ]
        self.data = problem.samples(batch, 10**6)
        # Distances in law to exact samples.
        self.laws = {"sliced_w2": sliced_w2, "w2": fastgen.wasserstein}
        if problem.dimension < batch:
            self.laws["frechet"] = frechet_distance

    # Both take minutes in many dimensions, which a resumed run whose rows are there need not spend.
    @cached_property
    def endpoints(self) -> list[Tensor]:
        """Where the exact flow takes the initial noises."""
        return [
            fastgen.sample(self.model, z, "rk4", 200, timesteps=GRID, dtype=torch.float64)
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


def ours(name: str, judge: Judge, solvers: list[str], budgets: tuple[int, ...]) -> Iterator[Row]:
    """Our solvers on the grids of a problem."""
    grids = (GRID, *OTHER_GRIDS) if MANY not in name and len(budgets) > 1 else (GRID,)
    for grid in grids:
        for done, solver in enumerate(solvers):
            show_progress(done, len(solvers))
            for budget in budgets:
                case = f"{name}, {grid}, NFE {budget}"
                if recorded(SUITE, case, solver, judge.shape):
                    continue
                plan = most_steps(solver, judge.problem.schedule, budget, grid)
                if plan is None:
                    continue
                sampler = fastgen.Sampler(judge.model, plan, dtype=torch.float64)
                results = [sampler(z, seed=s) for s, z in enumerate(judge.starts)]
                note = "" if plan.nfe == budget else f"{plan.nfe} evaluations"
                yield from judge.rows(
                    case, solver, "fastgen-torch", results, bool(plan.draws), note
                )


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    budgets = (10,) if quick else BUDGETS
    solvers = [
        entry.name
        for entry in table.rows()
        if not fastgen.solvers.get(entry.name).two_times and entry.name not in OTHER_MODELS
    ]
    for name, make in EXACT.items():
        if quick and name != CHEAP:
            continue
        batch = 128 if MANY in name else BATCH
        judge = Judge(make(LinearVP()), batch, 1 if quick else SEEDS)
        yield from ours(name, judge, solvers, budgets)
    schedule = DiscreteVP.linear()
    judge = Judge(EXACT[CHEAP](schedule), BATCH, 1 if quick else SEEDS)
    yield from quality_peers.rows(f"{CHEAP}, 1000 levels", judge, budgets)
    yield from digits_networks.rows(quick, budgets, solvers)
