"""How the time of exact assignment grows with n: exponents, and jumps from size to size.

Times are of the processor, on one thread: other work on the machine makes no jump of them.

A row of metric "exponent" is the slope of log time over log n, by least squares from 1024 points
on, of the doublings up to the one that took longer than a kind's share of patience. Its note names
the jumps: doublings whose own exponent is above 3.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.problems.costs import matrix, points
from benchmarks.tools.rows import Row, recorded, row, show_progress
from fastgen.common.threads import threads
from fastgen.couplings import Assignment, assign

SUITE = "growth"
CASES = (
    ("Gaussian", 2),
    ("Gaussian", 16),
    ("Gaussian", 256),
    ("heavy tails", 2),
    ("heavy tails", 16),
    ("clusters", 16),
    ("integers to 100", 0),
    ("uniform", 0),
)
FIRST, LAST, FITTED_FROM = 256, 65536, 1024
# Matrices that are given are no larger: 1 GiB.
LAST_MATRIX = 16384
# Seconds: a size is the last if it takes as long; up to so many a size is measured again.
PATIENCE, AGAIN = 3.0, 0.5
STEEP = 3.0


def seconds(run: Callable[[], object]) -> float:
    """Of one call, of the processor."""
    start = time.process_time()
    run()
    return time.process_time() - start


def sizes(last: int) -> Iterator[int]:
    """Doublings."""
    n = FIRST
    while n <= last:
        yield n
        n *= 2


def exponents(times: dict[int, float]) -> list[tuple[int, float]]:
    """For each doubling its larger size and exponent."""
    found = sorted(times.items())
    return [(m, math.log(b / a) / math.log(m / n)) for (n, a), (m, b) in itertools.pairwise(found)]


def slope(times: dict[int, float]) -> float:
    """Of log time over log n from FITTED_FROM on; NaN of fewer than two sizes."""
    kept = {n: t for n, t in times.items() if n >= FITTED_FROM}
    if len(kept) < 2:
        return math.nan
    return float(np.polyfit(np.log(list(kept)), np.log(list(kept.values())), 1)[0])


def jumps(times: dict[int, float]) -> str:
    """Doublings whose exponent is above STEEP, in words."""
    steep = [f"{m // 2} to {m}: {e:.1f}" for m, e in exponents(times) if e > STEEP]
    return "jumps " + ", ".join(steep) if steep else ""


def grow(kind: str, d: int, last: int, patience: float) -> Iterator[Row]:
    """A kind's sizes, its exponent and jumps."""
    case = f"{kind}, d = {d}" if d else kind
    if recorded(SUITE, case, "fastgen, exponent", (d,)):
        return
    times: dict[int, float] = {}
    for n in sizes(last if d else min(last, LAST_MATRIX)):
        if d:
            x0, x1 = (torch.tensor(x).float() for x in points(np.random.default_rng(n), kind, n, d))
            shape: tuple[int, ...] = (n, d)

            def run(a: Tensor = x0, b: Tensor = x1) -> Assignment:
                return assign(a, b)

        else:
            costs = matrix(kind, n, n)
            shape = (n, n)

            def run(a: Tensor = costs, b: Tensor = costs) -> Assignment:
                return assign(cost=a)

        spent = [seconds(run)]
        while sum(spent) < AGAIN and len(spent) < 9:
            spent.append(seconds(run))
        times[n] = sorted(spent)[len(spent) // 2]
        us = [1e6 * time for time in spent]
        yield of(case, shape, "time", "us", us)
        if times[n] > patience:
            break
    if not math.isnan(slope(times)):
        note = jumps(times)
        yield of(case, (d,), "exponent", "1", [slope(times)], "fastgen, exponent", note)


def of(
    case: str,
    shape: tuple[int, ...],
    metric: str,
    unit: str,
    values: list[float],
    provider: str = "fastgen",
    note: str = "",
) -> Row:
    """A row of ours."""
    return row(
        SUITE,
        case,
        provider,
        "fastgen-torch",
        shape,
        torch.float32,
        metric,
        unit,
        values,
        note=note,
    )


def rows(quick: bool) -> Iterator[Row]:
    """All rows of the suite."""
    with threads(1):
        for at, (kind, d) in enumerate(CASES):
            show_progress(at, len(CASES))
            yield from grow(kind, d, 4096 if quick else LAST, 0.5 if quick else PATIENCE)
