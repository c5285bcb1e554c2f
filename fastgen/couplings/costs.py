"""Assignment problems from the arguments of `assign`: clouds of points, or a matrix of costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fastgen.common.checks import check_choice, check_dense
from fastgen.couplings.points import check_batch, check_same_device
from fastgen.kernels.assignment.contract import Problem

Cost = Literal["sqeuclidean", "euclidean"] | Tensor | Callable[[Tensor, Tensor], Tensor]


def problem(
    x0: Tensor | None, x1: Tensor | None, cost: Cost, batched: bool, on_device: bool = False
) -> Problem:
    """The checked problem.

    Args:
        x0, x1, cost, batched: as for `fastgen.couplings.assign`.
        on_device: nothing is copied to the CPU.

    Numbers that are not finite are the solver's to find, on its way (see `check_finite` of
    `fastgen.kernels.assignment.contract`).

    Raises:
        TypeError: for arguments of the wrong type.
        ValueError: naming the argument, for shapes that do not fit and empty clouds.
    """
    if isinstance(cost, str):
        check_choice("cost", cost, ("sqeuclidean", "euclidean"))
        if x0 is None or x1 is None:
            raise TypeError(f"x0 and x1 are needed for cost={cost!r}")
        return _of_points(x0, x1, cost == "euclidean", batched, on_device)
    if callable(cost) and not isinstance(cost, Tensor):
        if x0 is None or x1 is None:
            raise TypeError("x0 and x1 are needed for a cost function")
        cost = cost(x0, x1)
    if isinstance(cost, np.ndarray):
        cost = torch.from_numpy(cost)
    if not isinstance(cost, Tensor):
        raise TypeError(f"cost: expected a name, a tensor or a function of one, got {cost!r}")
    return _of_matrix(cost, x0, x1, batched, on_device)


def _of_points(x0: Tensor, x1: Tensor, root: bool, batched: bool, on_device: bool) -> Problem:
    first, second = _cloud("x0", x0, batched), _cloud("x1", x1, batched)
    if len(first) != len(second):
        raise ValueError(f"x1: expected {len(first)} problems as in x0, got {len(second)}")
    if first.shape[2] != second.shape[2]:
        raise ValueError(f"x1: expected points of {first.shape[2]} numbers, got {second.shape[2]}")
    check_same_device("x1", x1, x0)
    dtype = torch.promote_types(first.dtype, second.dtype)
    first, second = first.to(dtype), second.to(dtype)
    if not on_device:
        first, second = first.cpu(), second.cpu()
    return Problem(first.contiguous(), second.contiguous(), None, root, x0.device)


def _of_matrix(
    cost: Tensor, x0: Tensor | None, x1: Tensor | None, batched: bool, on_device: bool
) -> Problem:
    check_dense("cost", cost)
    if cost.ndim != 2 + batched or 0 in cost.shape:
        raise ValueError(
            f"cost: expected a matrix of shape {'[N, n, m]' if batched else '[n, m]'}, none of "
            f"them 0, got {tuple(cost.shape)}; batched={batched}"
        )
    for name, x, size in (("x0", x0, cost.shape[-2]), ("x1", x1, cost.shape[-1])):
        if x is not None and (x.ndim <= batched or x.shape[int(batched)] != size):
            raise ValueError(
                f"{name}: expected {size} points, as in the cost {tuple(cost.shape)}, "
                f"got {tuple(x.shape)}"
            )
    matrix = _number("cost", cost.detach() if batched else cost.detach()[None])
    return Problem(None, None, matrix if on_device else matrix.cpu(), False, cost.device)


def _cloud(name: str, x: Tensor, batched: bool) -> Tensor:
    """Points [N, n, d] in float32 or float64."""
    check_batch(name, x, batched)
    x = _number(name, x.detach() if batched else x.detach()[None])
    return x.flatten(2) if x.ndim > 2 else x[..., None]


def _number(name: str, x: Tensor) -> Tensor:
    """Half precision in float32, whole numbers in float64, which must have them exactly.

    Raises:
        TypeError: for complex numbers.
        ValueError: for whole numbers beyond 2^53 that float64 does not have.
    """
    if x.is_complex():
        raise TypeError(f"{name}: expected real numbers, got {x.dtype}")
    x = x.resolve_neg()
    if x.dtype.is_floating_point and x.dtype != torch.float64:
        return x.float()
    wide = x.double()
    if x.dtype in (torch.int64, torch.uint64) and not torch.equal(wide.to(x.dtype), x):
        raise ValueError(
            f"{name}: whole numbers beyond 2^53 = {2**53}, which float64 does not have exactly; "
            "subtract a constant, or give float64"
        )
    return wide
