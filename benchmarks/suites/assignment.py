"""Exact assignment of every kind of costs, n = 4 to 4096, beside all solvers that are installed.

Costs are given as float32. Every result of ours is checked against scipy's cost where scipy is
asked, and certified. Peers compute in the precision they choose: where their pairing costs more
by 1e-6, or less, than the least a row says by how much. Small problems are timed over all kinds
without forbidden pairs in turn, a time being that of one problem. Peers that took long on a smaller
one are not asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.peers import assignment
from benchmarks.problems.costs import KINDS, matrix
from benchmarks.tools.harness import alternate, seconds
from benchmarks.tools.rows import Row, recorded, row, show_progress
from fastgen.common.threads import threads
from fastgen.couplings import assign

SUITE = "assignment"
SMALL = (4, 8, 16, 32)
SIZES = (128, 512, 2048, 4096)
# Peers that take this long, in seconds, are not asked for four times as many rows.
PATIENCE = 0.05
# Costs of infinity are for those whose documentation allows them, or has sparse problems.
FORBIDDEN = "forbidden pairs"
WITH_FORBIDDEN = ("scipy", "ortools", "lapx lapjvr", "lapx lapjvh")
BATCH = (256, 100)
BATCHES = ("boxes", "uniform", "integers to 100", "Gaussian, d = 16")
OWN = "fastgen-torch"


def time_row(case: str, name: str, package: str, shape: tuple[int, ...], us: list[float]) -> Row:
    """A time."""
    return row(SUITE, case, name, package, shape, torch.float32, "time", "us", us)


def cost_of(costs: Tensor, columns: Tensor) -> float:
    """The sum over pairs, in float64."""
    return costs.double()[torch.arange(len(costs)), columns].sum().item()


def checked(kind: str, costs: Tensor) -> float:
    """The least cost; AssertionError if what is certified is more than rounding."""
    found = assign(cost=costs)
    size = costs[costs.isfinite()].abs().max().item() * len(costs)
    assert float(found.gap) <= 1e-6 * size, f"{kind}: a gap of {found.gap}"
    return cost_of(costs, found.permutation)


def small(rounds: int) -> Iterator[Row]:
    """All kinds in turn."""
    for n in SMALL:
        if recorded(SUITE, "all kinds", "fastgen", (n, n)):
            continue
        names = [kind for kind in KINDS if kind != FORBIDDEN]
        problems = [matrix(kind, n) for kind in names]
        for kind, costs in zip(names, problems, strict=True):
            checked(kind, costs)
        runs: dict[str, Callable[[], object]] = {
            "fastgen": lambda all_=problems: [assign(cost=c) for c in all_]
        }
        packages = {"fastgen": OWN}
        for name, (package, solver) in assignment.solvers().items():
            runs[name] = lambda s=solver, all_=problems: [s(c) for c in all_]
            packages[name] = package
            runs[name]()  # imports
        for name, times in alternate(runs, rounds).items():
            each = [time / len(problems) for time in times]
            yield time_row("all kinds", name, packages[name], (n, n), each)


def kinds(sizes: tuple[int, ...], rounds: int) -> Iterator[Row]:
    """Each kind."""
    slow: set[tuple[str, str]] = set()
    for at, n in enumerate(sizes):
        for k, kind in enumerate(KINDS):
            show_progress(at * len(KINDS) + k, len(sizes) * len(KINDS))
            if recorded(SUITE, kind, "fastgen", (n, n)):
                continue
            costs = matrix(kind, n)
            least = checked(kind, costs)
            runs: dict[str, Callable[[], object]] = {"fastgen": lambda c=costs: assign(cost=c)}
            packages = {"fastgen": OWN}
            rows = []
            for name, (package, solver) in assignment.solvers().items():
                if (name, kind) in slow or (kind == FORBIDDEN and name not in WITH_FORBIDDEN):
                    continue
                columns: list[Tensor] = []
                if (
                    seconds(
                        lambda s=solver, c=costs, out=columns: out.append(
                            torch.from_numpy(s(c)).long()
                        )
                    )
                    > PATIENCE
                ):
                    slow.add((name, kind))
                excess = cost_of(costs, columns[0]) / least - 1
                assert name != "scipy" or abs(excess) < 1e-6, f"{kind}: scipy differs by {excess}"
                if not abs(excess) < 1e-6:
                    rows.append(
                        row(
                            SUITE, kind, name, package, (n, n), costs.dtype, "excess", "1", [excess]
                        )
                    )
                runs[name], packages[name] = (lambda s=solver, c=costs: s(c)), package
            for name, times in alternate(runs, rounds).items():
                rows.append(time_row(kind, name, packages[name], (n, n), times))
            yield from rows


def batches(rounds: int) -> Iterator[Row]:
    """Many problems in one call, on one thread."""
    count, n = BATCH
    for kind in BATCHES:
        case, shape = f"batch, {kind}", (count, n, n)
        if recorded(SUITE, case, "fastgen", shape):
            continue
        costs = torch.stack([matrix(kind, n, seed) for seed in range(count)])
        runs: dict[str, Callable[[], object]] = {
            "fastgen": lambda c=costs: assign(cost=c, batched=True, threads=1)
        }
        packages = {"fastgen": OWN, "scipy": "scipy"}
        found = assign(cost=costs, batched=True)
        assert isinstance(found.cost, Tensor)
        for one, match, cost in zip(costs, found.permutation, found.cost, strict=True):
            assert abs(cost_of(one, match) - cost) <= 1e-6 * one.abs().max() * n
        if "scipy" in assignment.solvers():
            runs["scipy"] = lambda c=costs: [assignment.scipy(one) for one in c]
        if assignment.has_lapx():
            for name in assignment.METHODS:
                if name != "lapjvc":  # which has none
                    solver = assignment.batch_method(name)
                    runs[f"lapx {name}"] = lambda s=solver, c=costs: s(c)
                    packages[f"lapx {name}"] = "lapx"
        for name, times in alternate(runs, rounds).items():
            yield time_row(case, name, packages[name], shape, times)


def rows(quick: bool) -> Iterator[Row]:
    """All rows of the suite."""
    rounds = 3 if quick else 9
    with threads(1):
        yield from small(rounds)
        yield from batches(rounds)
        yield from kinds(SIZES[:2] if quick else SIZES, rounds)
