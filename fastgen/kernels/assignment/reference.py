"""Exact assignment in plain numpy: shortest augmenting paths, one row at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastgen.kernels.assignment.contract import Matching, Options, Problem, check_finite

Floats = npt.NDArray[np.floating[Any]]


def assign(cost: Floats) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """Columns of the rows, and dual variables, of the assignment of least cost.

    Dijkstra's search in reduced costs c_ij - u_i - v_j from each row to the nearest unassigned
    column (Kuhn 1955; Jonker and Volgenant 1987; rectangular as in Crouse 2016).

    Args:
        cost: [n, m], n <= m.

    Returns:
        The column of each row [n], u [n] and v [m]: u_i + v_j <= c_ij, with equality for pairs;
        v <= 0, and v = 0 where no row is.
    """
    cost = cost.astype(np.float64)
    rows, columns = cost.shape
    u, v = np.zeros(rows), np.zeros(columns)
    match, owner = np.full(rows, -1), np.full(columns, -1)
    for root in range(rows):
        distance, parent = np.full(columns, np.inf), np.full(columns, -1)
        done = np.zeros(columns, dtype=bool)
        row, base, tree = root, 0.0, [root]
        while True:
            through = base + cost[row] - u[row] - v
            shorter = ~done & (through < distance)
            distance[shorter], parent[shorter] = through[shorter], row
            column = int(np.argmin(np.where(done, np.inf, distance)))
            base = distance[column]
            if owner[column] < 0:
                break
            done[column] = True
            row = int(owner[column])
            tree.append(row)
        u[root] += base
        u[tree[1:]] += base - distance[match[tree[1:]]]
        v[done] -= base - distance[done]
        while True:
            row = int(parent[column])
            owner[column], match[row], column = row, column, int(match[row])
            if row == root:
                break
    return match, u, v


def solve(problem: Problem, options: Options) -> Matching:
    """Exact whatever options.epsilon, from scratch whatever the prices."""
    if problem.matrix is not None:
        matrix = problem.matrix.double()
    else:
        assert problem.x0 is not None
        assert problem.x1 is not None
        check_finite(problem)
        mode = "donot_use_mm_for_euclid_dist"
        matrix = torch.cdist(problem.x0.double(), problem.x1.double(), compute_mode=mode)
        matrix = matrix if problem.root else matrix.square()
    if not torch.isfinite(matrix).all():
        raise ValueError("cost: expected finite numbers")
    found = [assign(one.numpy()) for one in matrix]
    match, rows, columns = (torch.stack([torch.from_numpy(f[k]) for f in found]) for k in range(3))
    cost = matrix.gather(2, match[:, :, None])[:, :, 0].sum(1)
    gap = (cost - rows.sum(1) - columns.sum(1)).clamp(min=0)
    return Matching(match, cost, gap, rows, columns)
