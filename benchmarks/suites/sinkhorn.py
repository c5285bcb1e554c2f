"""Entropic transport to a given marginal error, beside POT and geomloss, one thread.

Every provider runs until the marginals are within the tolerance, in float32, on the same points
and regularisation (a part of the mean cost). Times count everything, cost matrices included.
geomloss cannot be told a tolerance: it gets the fastest annealing that reaches it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from benchmarks.peers.entropic import geomloss, pot
from benchmarks.problems.points import mixture
from benchmarks.tools.harness import Case, Provider, copy_bandwidth, measure
from benchmarks.tools.rows import Row, recorded, row, skipped
from fastgen.couplings import sinkhorn
from fastgen.kernels import pairwise

SUITE = "sinkhorn"
TOLERANCE = 1e-3
# Beyond, the annealing that reaches the tolerance takes minutes a call.
LARGEST_GEOMLOSS = 1024


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


def cases(quick: bool) -> Iterator[tuple[Case, dict[str, float]]]:
    """Cases, with the marginal error of each provider."""
    grid = [(512, 2, 0.05), (512, 64, 0.01)]
    if not quick:
        grid += [(1024, 64, 0.01), (2048, 2, 0.05), (4096, 256, 0.05), (4096, 256, 0.01)]
    for n, d, part in grid:
        x0, x1 = mixture(n, d)
        first = sinkhorn(x0, x1, part, reg_scale="mean_cost", tolerance=TOLERANCE)
        reg = first.reg

        solve = partial(sinkhorn, x0, x1, reg, tolerance=TOLERANCE)
        providers = [
            Provider("fastgen", lambda run=solve: run().g),
            Provider("fastgen, memory of the points only", lambda run=solve: run(memory=0).g),
        ]
        if find_spec("ot"):
            providers.append(Provider("POT sinkhorn_log", pot(x0, x1, reg, TOLERANCE), "POT"))
        if find_spec("geomloss") and n <= LARGEST_GEOMLOSS:
            run = fast_enough(x0, x1, reg)
            providers.append(Provider("geomloss tensorized", run, "geomloss"))
        errors = {p.name: marginal_error(x0, x1, p.run(), reg) for p in providers}
        yield Case(SUITE, f"reg {part}", (n, d), torch.float32, providers), errors


def rows(quick: bool) -> Iterator[Row]:
    """The suite: times, and the marginal error that each provider reached."""
    for case, errors in cases(quick):
        if all(recorded(SUITE, case.name, p.name, case.shape) for p in case.providers):
            continue
        # Seconds a call at the largest size, so that few rounds must do.
        yield from measure(
            case, copy_bandwidth(), rounds=3 if case.shape[0] > 1024 else 6, budget=1.0
        )
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
        for name, package in (("POT sinkhorn_log", "ot"), ("geomloss tensorized", "geomloss")):
            if name not in errors:
                missing = f"{package} is not installed"
                reason = missing if not find_spec(package) else "minutes a call; see smaller shapes"
                yield skipped(SUITE, case.name, name, case.shape, reason)
