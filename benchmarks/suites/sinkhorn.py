"""Entropic transport to a given marginal error, beside POT, geomloss and OTT-JAX, one thread.

Every provider runs until the marginals are within the tolerance, in float32, on the same points
and regularisation (a part of the mean cost). Times count everything, cost matrices included.
geomloss cannot be told a tolerance: it gets the fastest annealing that reaches it. OTT-JAX, which
looks at the error every ten sweeps, gets the fastest momentum that reaches it, and mostly a smaller
error: a row of ours stops at that one. Of more points than LARGEST_REPEATED one call is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from benchmarks.peers.entropic import geomloss, ott, pot
from benchmarks.problems.points import mixture
from benchmarks.tools.harness import Case, Provider, copy_bandwidth, measure, seconds
from benchmarks.tools.rows import Row, recorded, row, skipped
from fastgen.common.threads import threads
from fastgen.couplings import sinkhorn
from fastgen.kernels import pairwise

SUITE = "sinkhorn"
TOLERANCE = 1e-3
# Beyond, the annealing that reaches the tolerance takes minutes a call.
LARGEST_GEOMLOSS = 1024
# Beyond, a call of OTT-JAX takes half a minute, and POT's matrices gigabytes.
LARGEST_REPEATED = 4096
# Sweeps after which OTT-JAX's momentum begins, boldest first: from 10 on it diverged on every case
# tried; None is none. In float32 errors are not asked to be below LEAST_ERROR.
MOMENTUM, LEAST_ERROR = (10, 20, 50, None), 2e-6


def marginal_error(x0: Tensor, x1: Tensor, g: Tensor, reg: float) -> float:
    """L1 error of the columns if rows are exact, for a potential g of the squared distance."""
    x, y = x0.double(), x1.double()
    n, m = len(x), len(y)
    rows, columns = x.square().sum(1), y.square().sum(1)
    bias = (g.double() - columns) / reg
    f = rows - reg * pairwise.log_sum(x, y, bias, 2 / reg)
    sums = pairwise.log_sum(y, x, (f - rows) / reg, 2 / reg)
    return (((g.double() - columns) / reg + sums).exp() / (n * m) * n - 1 / m).abs().sum().item()


def fast_enough(x0: Tensor, x1: Tensor, reg: float) -> Callable[[], Tensor]:
    """geomloss with the fastest annealing whose plan has the marginals asked for."""
    for scaling in (0.5, 0.7, 0.9, 0.95, 0.98):
        run = geomloss(x0, x1, reg, scaling)
        if marginal_error(x0, x1, run(), reg) <= TOLERANCE:
            break
    return run


def bold_enough(x0: Tensor, x1: Tensor, reg: float) -> Callable[[], Tensor]:
    """OTT-JAX with the boldest momentum whose plan has the marginals asked for."""
    for start in MOMENTUM[1:] if len(x0) > LARGEST_REPEATED else MOMENTUM:
        run = ott(x0, x1, reg, TOLERANCE, start)
        if marginal_error(x0, x1, run(), reg) <= TOLERANCE:
            break
    return run


def cases(quick: bool) -> Iterator[tuple[Case, dict[str, float]]]:
    """Cases, with the marginal error of each provider."""
    grid = [(512, 2, 0.05), (512, 64, 0.01)]
    if not quick:
        grid += [(1024, 64, 0.01), (2048, 2, 0.05), (4096, 256, 0.05), (4096, 256, 0.01)]
        grid += [(16384, 2, 0.05), (65536, 2, 0.05)]
    for n, d, part in grid:
        if recorded(SUITE, f"reg {part}", "fastgen", (n, d)):
            continue
        x0, x1 = mixture(n, d)
        first = sinkhorn(x0, x1, part, reg_scale="mean_cost", tolerance=TOLERANCE)
        reg = first.reg

        solve = partial(sinkhorn, x0, x1, reg)
        providers = [
            Provider("fastgen", lambda run=solve: run(tolerance=TOLERANCE).g),
            Provider(
                "fastgen, memory of the points only",
                lambda run=solve: run(tolerance=TOLERANCE, memory=0).g,
            ),
        ]
        if find_spec("ot") and n <= LARGEST_REPEATED:
            providers.append(Provider("POT sinkhorn_log", pot(x0, x1, reg, TOLERANCE), "POT"))
        if find_spec("geomloss") and n <= LARGEST_GEOMLOSS:
            run = fast_enough(x0, x1, reg)
            providers.append(Provider("geomloss tensorized", run, "geomloss"))
        if find_spec("ott"):
            providers.append(Provider("OTT-JAX", bold_enough(x0, x1, reg), "ott-jax"))
        errors = {p.name: marginal_error(x0, x1, p.run(), reg) for p in providers}
        if find_spec("ott"):
            same = max(LEAST_ERROR, min(TOLERANCE, errors["OTT-JAX"]))
            name = "fastgen, to OTT-JAX's error"
            providers.append(Provider(name, lambda run=solve, to=same: run(tolerance=to).g))
            errors[name] = marginal_error(x0, x1, providers[-1].run(), reg)
        yield Case(SUITE, f"reg {part}", (n, d), torch.float32, providers), errors


def timed(case: Case) -> Iterator[Row]:
    """Times of all providers."""
    if case.shape[0] <= LARGEST_REPEATED:
        # Seconds a call at the largest size, so that few rounds must do.
        rounds = 3 if case.shape[0] > 1024 else 6
        yield from measure(case, copy_bandwidth(), rounds=rounds, budget=1.0)
        return
    with threads(1):
        for p in case.providers:
            us = [1e6 * seconds(p.run)]
            yield row(SUITE, case.name, p.name, p.package, case.shape, case.dtype, "time", "us", us)


def rows(quick: bool) -> Iterator[Row]:
    """The suite: times, and the marginal error that each provider reached."""
    for case, errors in cases(quick):
        yield from timed(case)
        for p in case.providers:
            yield row(
                SUITE,
                case.name,
                p.name,
                p.package,
                case.shape,
                case.dtype,
                "marginal error",
                "L1",
                [errors[p.name]],
            )
        packages = {"POT sinkhorn_log": "ot", "geomloss tensorized": "geomloss", "OTT-JAX": "ott"}
        for name, package in packages.items():
            if name not in errors:
                missing = f"{package} is not installed"
                reason = missing if not find_spec(package) else "minutes a call; see smaller shapes"
                yield skipped(SUITE, case.name, name, case.shape, reason)
