"""Exact assignment and transport in plain numpy: shortest augmenting paths, one row at a time."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastgen.kernels.assignment.contract import (
    TOLERANCE,
    Matching,
    NotFiniteError,
    Options,
    Problem,
    Shipment,
    check_finite,
    check_fits,
    near_one,
    times_power,
)

Array = npt.NDArray[Any]
# A gap of at most this part of the cost needs no proof beyond float64's.
SETTLED = 1e-8


def transport(cost: Array, supply: Array, demand: Array) -> tuple[Array, Array, Array]:
    """Amounts and dual variables of the plan of least cost.

    Dijkstra's search in reduced costs c_ij - u_i - v_j from each row to the nearest column with
    some demand left (Kuhn 1955; Jonker and Volgenant 1987; rectangular as in Crouse 2016).

    Args:
        cost: [n, m], float64, or whole numbers as objects, for which nothing is rounded.
        supply: [n], above 0. demand: [m], above 0, of the same sum or more.

    Returns:
        Amounts [n, m], u [n] and v [m]: u_i + v_j <= c_ij, with equality where there is some;
        v <= 0, and v = 0 where demand is left.
    """
    rows, columns = cost.shape
    u, v = np.zeros(rows, cost.dtype), np.zeros(columns, cost.dtype)
    amounts, left = np.zeros((rows, columns), np.int64), demand.copy()
    for root in range(rows):
        rest = supply[root]
        while rest:
            distance = np.full(columns, np.inf, cost.dtype)
            parent, done = np.full(columns, -1), np.zeros(columns, dtype=bool)
            # Rows of the tree, how far they are, and the column before.
            tree: dict[int, Any] = {root: 0}
            entry = {root: -1}
            waiting = [root]
            while True:
                for row in waiting:
                    through = tree[row] + cost[row] - u[row] - v
                    shorter = ~done & (through < distance)
                    distance[shorter], parent[shorter] = through[shorter], row
                column = int(np.argmin(np.where(done, np.inf, distance)))
                base = distance[column]
                if left[column]:
                    break
                done[column] = True
                waiting = [int(i) for i in amounts[:, column].nonzero()[0] if int(i) not in tree]
                for row in waiting:
                    tree[row], entry[row] = base, column
            for row, at in tree.items():
                u[row] += base - at
            v[done] -= base - distance[done]
            path = [(int(parent[column]), column)]
            while entry[path[-1][0]] >= 0:
                before = entry[path[-1][0]]
                path.append((int(parent[before]), before))
            back = [amounts[row, entry[row]] for row, _ in path[:-1]]
            given = min(rest, left[column], *back)
            for row, to in path:
                amounts[row, to] += given
                if entry[row] >= 0:
                    amounts[row, entry[row]] -= given
            left[column] -= given
            rest -= given
    return amounts, u, v


def assign(cost: Array) -> tuple[Array, Array, Array]:
    """Columns [n] of the rows and dual variables of the assignment of least cost, n <= m."""
    ones = [np.ones(k, np.int64) for k in cost.shape]
    amounts, u, v = transport(cost, *ones)
    return amounts.argmax(1), u, v


def solve(problem: Problem, options: Options) -> Matching:
    """Exact whatever options.epsilon, from scratch whatever the prices."""
    matrices, power = _costs(problem)
    given = problem.x0 if problem.matrix is None else problem.matrix
    assert given is not None
    _, n, m = problem.sizes
    ones = np.ones(n, np.int64), np.ones(m, np.int64)
    tolerance, part = 1.01 * TOLERANCE[given.dtype], _rounding(problem)
    found = [_proved(matrix, *ones, tolerance, part) for matrix in matrices]
    match = torch.stack([torch.from_numpy(amounts.argmax(1)) for amounts, *_ in found])
    rows, columns = (torch.stack([torch.from_numpy(one[k]) for one in found]) for k in (1, 2))
    value, gap = torch.tensor([one[3:] for one in found], dtype=torch.float64, device="cpu").T
    costs = torch.from_numpy(np.stack(matrices))
    cost = costs.gather(2, match[:, :, None])[:, :, 0].sum(1)  # rounded once for each pair
    gap = torch.where((cost == value) | gap.isinf(), gap, gap + (cost - value).abs())
    back = [times_power(x, power) for x in (cost, gap, rows, columns)]
    if problem.matrix is None:
        check_fits(back[0], problem)
    return Matching(match, *back)


def ship(problem: Problem, supply: Tensor, demand: Tensor) -> Shipment:
    """See `fastgen.kernels.assignment.transport.ship`, for one problem."""
    (matrix,), power = _costs(problem)
    amounts, u, v, cost, gap = _proved(
        matrix, supply.numpy(), demand.numpy(), 0.0, _rounding(problem)
    )
    rows, columns = (torch.from_numpy(k) for k in amounts.nonzero())
    cost, gap = (
        times_power(torch.tensor(x, dtype=torch.float64, device="cpu"), power).item()
        for x in (cost, gap)
    )
    first, second = (times_power(torch.from_numpy(x), power) for x in (u, v))
    return Shipment(
        rows, columns, torch.from_numpy(amounts[amounts > 0]), cost, gap, (first, second)
    )


def _rounding(problem: Problem) -> float:
    """The part of a cost of points, and of the other that it is compared with, that is rounded."""
    return 0.0 if problem.x0 is None else 2.0**-52 * (problem.x0.shape[2] + 6)


def _costs(problem: Problem) -> tuple[list[Array], int]:
    """Costs [n, m] in float64 of each problem, and the power of two that they are over."""
    if problem.matrix is not None:
        if not torch.isfinite(problem.matrix).all():
            raise NotFiniteError("cost: expected finite numbers")
        return [one.double().numpy() for one in problem.matrix], 0
    check_finite(problem)
    costs, power = _distances(problem), 0
    if not 1e-290 < costs.max().item() < 1e290:
        scaled, power = near_one(problem)
        costs = _distances(scaled)
    return [one.numpy() for one in costs], power


def _distances(problem: Problem) -> Tensor:
    assert problem.x0 is not None
    assert problem.x1 is not None
    mode = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(problem.x0.double(), problem.x1.double(), compute_mode=mode)
    return distances if problem.root else distances.square()


def _proved(
    cost: Array, supply: Array, demand: Array, tolerance: float, part: float
) -> tuple[Array, Array, Array, float, float]:
    """Amounts, duals, cost and gap; in whole numbers where float64 proves too little.

    part: of the costs, which rounding may have taken.
    """
    if np.abs(cost).max() < 1e290:
        amounts, u, v = transport(cost, supply, demand)
        total = _total(cost, amounts)
        # The lowest of rounded numbers is the lowest, rounded.
        lowest = np.nextafter((cost - v).min(1), -np.inf)
        bound = sum(
            Fraction(x) * int(k)
            for duals, size in ((lowest, supply), (v, demand))
            for x, k in zip(duals.tolist(), size, strict=True)
        )
        value = _float(total)
        gap = _above(total - bound + abs(total - Fraction(value)))
        if gap <= max(tolerance, SETTLED) * _size(cost, amounts):
            return amounts, u, v, value, gap + part * value
    ratios = [x.as_integer_ratio() for x in cost.ravel().tolist()]
    unit = max(below for _, below in ratios)
    whole = np.array([above * (unit // below) for above, below in ratios], object)
    amounts, u, v = transport(whole.reshape(cost.shape), supply, demand)
    total = _total(cost, amounts)
    value = _float(total)
    gap = _above(abs(total - Fraction(value))) if math.isfinite(value) else math.inf
    u, v = (np.array([_float(Fraction(int(x), unit)) for x in part]) for part in (u, v))
    return amounts, u, v, value, gap + part * value if part else gap


def _size(cost: Array, amounts: Array) -> float:
    """The sum of costs without their signs, those cut that are far above most others."""
    cells = amounts.nonzero()
    sizes, amounts = np.abs(cost[cells]), amounts[cells]
    some = np.sort(sizes[sizes > 0])
    most = 1e3 * some[len(some) // 8] if len(some) else 0.0
    return float((np.minimum(sizes, most) * amounts).sum())


def _total(cost: Array, amounts: Array) -> Fraction:
    cells = amounts.nonzero()
    pairs = zip(cost[cells].tolist(), amounts[cells].tolist(), strict=True)
    return sum((Fraction(x) * k for x, k in pairs), Fraction(0))


def _above(x: Fraction) -> float:
    """x >= 0, rounded up."""
    return math.nextafter(_float(x), math.inf) if x else 0.0


def _float(x: Fraction) -> float:
    try:
        return float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf
