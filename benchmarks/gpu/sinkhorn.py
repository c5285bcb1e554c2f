"""Entropic transport of many points on one device."""

from __future__ import annotations

from functools import partial

from benchmarks.gpu.bench import Bench
from benchmarks.problems.points import clouds
from benchmarks.tools.harness import Provider
from fastgen.couplings import sinkhorn

TOLERANCE = 1e-3


def transport(bench: Bench) -> None:
    """Time to a marginal error of 1e-3, points on the device, costs never stored."""
    for n, d in ((256, 8),) if bench.quick else ((10_000, 64), (50_000, 64)):
        x0, x1 = (x.to(bench.device) for x in clouds(n, d))

        solve = partial(
            sinkhorn, x0, x1, 0.05, reg_scale="mean_cost", tolerance=TOLERANCE, memory=0
        )
        bench.compare(
            "sinkhorn",
            "reg .05 of the mean cost",
            (n, d),
            x0.dtype,
            {"fastgen": partial(Provider, "", solve)},
        )
