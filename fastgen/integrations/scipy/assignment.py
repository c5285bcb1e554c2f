"""`linear_sum_assignment`, of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fastgen.couplings import assign


def linear_sum_assignment(
    cost_matrix: ArrayLike, maximize: bool = False
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the assignment of least (or greatest) sum.

    The sum is scipy's to rounding; where several assignments have it, another one may be found.

    Args:
        cost_matrix: [n, m] real numbers or booleans; inf forbids a pair (-inf with maximize).
        maximize: whether the sum is to be greatest.

    Returns:
        row_ind, increasing, and col_ind, each of min(n, m) integers.

    Raises:
        TypeError: for numbers that are not real.
        ValueError: for another shape than a matrix, NaN, infinity of the other sign, and a matrix
            that allows no assignment.
    """
    given = np.asarray(cost_matrix)
    if given.ndim != 2:
        raise ValueError(f"cost_matrix: expected a matrix (2-D array), got a {given.shape!r} array")
    if given.dtype == object:
        given = given.astype(np.float64)
    if not (np.issubdtype(given.dtype, np.number) or given.dtype == np.bool_) or (
        np.iscomplexobj(given)
    ):
        raise TypeError(f"Cannot cast array data from {given.dtype!r} to float64")
    costs: NDArray[Any] = np.array(given, np.float64)
    if maximize:
        costs = -costs
    if np.isnan(costs).any() or np.isneginf(costs).any():
        raise ValueError("matrix contains invalid numeric entries")
    n, m = costs.shape
    if min(n, m) == 0:
        return np.arange(0), np.arange(0)
    try:
        rows, columns = assign(cost=torch.from_numpy(costs)).indices()
    except ValueError as error:
        if "infeasible" in str(error):
            raise ValueError("cost matrix is infeasible") from error
        raise
    return rows.numpy().astype(np.intp), columns.numpy().astype(np.intp)
