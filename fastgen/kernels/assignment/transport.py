"""Optimal transport plans between points that supply and points that demand whole amounts."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fastgen.kernels import dispatch
from fastgen.kernels.assignment.contract import (
    Problem,
    Shipment,
    check_finite,
    check_fits,
    near_one,
    times_power,
)


def ship(problem: Problem, supply: Tensor, demand: Tensor, backend: str = "auto") -> Shipment:
    """A plan of least cost, by the network simplex method in C++; exact for any finite costs.

    Args:
        problem: one problem, on the CPU.
        supply, demand: int64 [n], [m], above 0, of one sum.
        backend: "cpp", "reference", or "auto": C++ where it is built.

    Raises:
        ValueError: for numbers that are not finite, and points whose costs are not.
    """
    if backend == "auto":
        backend = "cpp" if dispatch.missing("cpp") is None else "reference"
    kernel = dispatch.load("transport", backend)
    if kernel is None:
        raise ValueError(f"backend={backend!r}: there is no such implementation")
    found: Shipment
    if problem.matrix is not None:
        found = kernel(problem, supply, demand)
        return found
    check_finite(problem)
    scaled, power = near_one(problem)
    found = kernel(scaled, supply, demand)
    cost, gap = (
        times_power(torch.tensor(x, dtype=torch.float64, device="cpu"), power)
        for x in (found.cost, found.gap)
    )
    check_fits(cost, problem)
    u, v = (times_power(x, power) for x in found.duals)
    return replace(found, cost=cost.item(), gap=gap.item(), duals=(u, v))
