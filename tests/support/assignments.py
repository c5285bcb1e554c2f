"""Least-cost assignments to compare with: SciPy's, and the same where there is no SciPy."""

import numpy as np


def shortest_paths(costs):
    """Rows and columns of least cost [n, m], by a shortest path for each row (Kuhn 1955)."""
    costs = np.asarray(costs, np.float64)
    if costs.shape[0] > costs.shape[1]:
        columns, rows = shortest_paths(costs.T)
        order = np.argsort(rows)
        return rows[order], columns[order]
    n, m = costs.shape
    u, v = np.zeros(n), np.zeros(m)
    owner = np.full(m, -1)
    for row in range(n):
        least, before = np.full(m, np.inf), np.full(m, -1)
        done = np.zeros(m, bool)
        i, column, length = row, -1, 0.0
        while i >= 0:  # until a column is reached that nobody owns
            through = length + costs[i] - u[i] - v
            nearer = ~done & (through < least)
            least[nearer], before[nearer] = through[nearer], column
            column = int(np.argmin(np.where(done, np.inf, least)))
            length = least[column]
            done[column] = True
            i = owner[column]
        u[row] += length
        passed = done & (np.arange(m) != column)
        u[owner[passed]] += length - least[passed]
        v[passed] -= length - least[passed]
        while column >= 0:
            earlier = before[column]
            owner[column] = row if earlier < 0 else owner[earlier]
            column = earlier
    columns = np.flatnonzero(owner >= 0)
    order = np.argsort(owner[columns])
    return owner[columns][order], columns[order]


try:
    from scipy.optimize import linear_sum_assignment
except ImportError:  # on machines with a GPU and little else
    linear_sum_assignment = shortest_paths

__all__ = ["linear_sum_assignment", "shortest_paths"]
