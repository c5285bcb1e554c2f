"""Costs of infinity, which forbid a pair, as finite ones that are taken only if they must be."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fastgen.kernels.assignment.contract import LARGE, Matching, NotFiniteError, Problem

# Costs that are too large for sums are solved in units of this.
UNIT = 2.0**64


def allowed(problem: Problem) -> tuple[Problem, Tensor, float]:
    """The problem in finite costs, which pairs of it are forbidden [N, n, m], and their unit.

    Raises:
        NotFiniteError: for NaN and negative infinity.
    """
    given = problem.matrix
    assert given is not None
    forbidden = given == torch.inf
    wrong = ~(given.isfinite() | forbidden)
    if wrong.any():
        at = wrong.nonzero()[0].tolist()
        raise NotFiniteError(
            f"cost: expected finite numbers, or inf for a pair that is forbidden; "
            f"got {given[tuple(at)].item()} at {at[1:]}"
        )
    unit = UNIT if given.double().masked_fill(forbidden, 0).abs().max() > LARGE else 1.0
    costs = given.double() / unit
    price = _price(costs, forbidden)
    return replace(problem, matrix=torch.where(forbidden, price, costs)), forbidden, unit


def _price(costs: Tensor, forbidden: Tensor) -> Tensor:
    """More than a pairing of allowed pairs can save, [N, 1, 1]."""
    low = costs.masked_fill(forbidden, torch.inf).amin((1, 2), keepdim=True)
    high = costs.masked_fill(forbidden, -torch.inf).amax((1, 2), keepdim=True)
    # Where all that is allowed costs the same, any more will do.
    spread = (high - low).maximum(high.abs() * 1e-3)
    spread = torch.where(spread > 0, spread, 1.0)
    price = high + 4 * min(costs.shape[1:]) * spread
    return torch.where(high == -torch.inf, 1.0, price)  # nothing is allowed


def check_feasible(solution: Matching, forbidden: Tensor) -> None:
    """Raise a ValueError where a pair is forbidden: of the pairings none has fewer."""
    taken = forbidden.gather(2, solution.match[:, :, None])[:, :, 0]
    if taken.any():
        problem, row = taken.nonzero()[0].tolist()
        where = f" of problem {problem}" if len(taken) > 1 else ""
        raise ValueError(
            f"cost: cost matrix is infeasible: every pairing{where} has a pair whose cost is inf, "
            f"for instance in row {row}; give some pairs a finite cost"
        )
