"""Exact transport plans between clouds whose points have equal weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgen.couplings.costs import Cost, problem
from fastgen.kernels.assignment.contract import Shipment
from fastgen.kernels.assignment.transport import ship


def uniform_plan(x0: Tensor, x1: Tensor, cost: Cost = "sqeuclidean") -> tuple[Shipment, int]:
    """The plan of least cost between n and m points, and into how many parts mass is split.

    Weights are 1/n and 1/m: in parts of 1/lcm(n, m) each point has a whole number of them, and so
    has each cell of some optimal plan. By the network simplex method, whatever the sizes.

    Args:
        x0: [n, ...]. x1: [m, ...]. cost: see `fastgen.couplings.assign`.

    Returns:
        The plan, on the CPU, with amounts and costs in parts: divide them by the number of parts.

    Raises:
        TypeError, ValueError: naming the argument, as of `fastgen.couplings.assign`.
    """
    n, m = len(x0), len(x1)
    parts = math.lcm(n, m)
    given = problem(x0, x1, cost, batched=False)
    supply, demand = (torch.full((k,), parts // k, dtype=torch.int64, device="cpu") for k in (n, m))
    return ship(given, supply, demand), parts
