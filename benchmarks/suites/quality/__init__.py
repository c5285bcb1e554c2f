"""Quality against network evaluations: every solver at several budgets, beside the peers.

With exact denoisers (`problems`) what is left is the solver's error: the root mean square
distance to the exact endpoint of the probability-flow ODE from the same initial noise, over
samples and dimensions (deterministic solvers), and of all solvers the distances to exact samples:
Wasserstein-2 sliced and exact, and Fréchet's in the data space where there are more samples than
dimensions. Their floors are those of two exact sets. Medians, spreads and standard errors are over
seeds.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

import fastgen
from benchmarks.problems.budgets import most_steps
from benchmarks.problems.exact import EXACT
from benchmarks.suites.quality import digits, peers
from benchmarks.suites.quality.judge import GRID, GRIDS, SUITE, Judge
from benchmarks.tools.rows import Row, recorded, show_progress, skipped
from fastgen.cli import solver_table as table
from fastgen.schedules import DiscreteVP, LinearVP, Rectified

BATCH, SEEDS = 512, 3
BUDGETS = (4, 5, 6, 8, 10, 15, 20, 50)
# On `GRID` alone, as a run takes an hour.
MANY = ("mixture, d = 3072", "photographs, d = 192")
CHEAP = "mixture, d = 64"
# On straight paths too, whose velocity is not small at the start.
FLOWS = ("mixture, d = 2", CHEAP, "digits, d = 64")
# They draw from a consistency function or a bridge, which a denoiser is not, or of masked data.
OTHER_MODELS = {"bridge_sde", "consistency", "lcm", "repaint", "tcd"}


def ours(name: str, judge: Judge, solvers: list[str], budgets: tuple[int, ...]) -> Iterator[Row]:
    """Our solvers on the grids of a problem."""
    whole = name not in MANY and len(budgets) > 1 and judge.grid == GRID
    for grid in GRIDS if whole else (judge.grid,):
        for done, solver in enumerate(solvers):
            show_progress(done, len(solvers))
            for budget in budgets:
                case = f"{name}, {grid}, NFE {budget}"
                if recorded(SUITE, case, solver, judge.shape):
                    continue
                try:
                    plan = most_steps(solver, judge.problem.schedule, budget, grid)
                except ValueError as error:  # no start at alpha = 0, for one
                    yield skipped(SUITE, case, solver, judge.shape, str(error))
                    continue
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
        batch = 128 if name == MANY[0] else BATCH
        judge = Judge(make(LinearVP()), batch, 1 if quick else SEEDS)
        yield from ours(name, judge, solvers, budgets)
    for name in FLOWS if not quick else (CHEAP,):
        judge = Judge(EXACT[name](Rectified()), BATCH, 1 if quick else SEEDS, "uniform")
        yield from ours(f"{name}, rectified", judge, solvers, budgets)
    schedule = DiscreteVP.linear()
    judge = Judge(EXACT[CHEAP](schedule), BATCH, 1 if quick else SEEDS)
    yield from peers.rows(f"{CHEAP}, 1000 levels", judge, budgets)
    yield from digits.rows(quick, budgets, solvers)
