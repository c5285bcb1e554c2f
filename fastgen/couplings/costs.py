"""Checked inputs of assignment problems."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fastgen.common.errors import nearest
from fastgen.kernels.assignment.contract import Problem

Cost = Literal["sqeuclidean", "euclidean"] | Tensor | Callable[[Tensor, Tensor], Tensor]


def problem(
    x0: Tensor | None, x1: Tensor | None, cost: Cost, batched: bool, on_device: bool = False
) -> Problem:
    """The checked problem.

    Args:
        on_device: nothing is copied to the CPU.

    Numbers that are not finite are the solver's to find, on its way (see `check_finite` of
    `fastgen.kernels.assignment.contract`).

    Raises:
        TypeError: for arguments of the wrong type.
        ValueError: naming the argument, for shapes that do not fit and empty clouds.
    """
    if isinstance(cost, str):
        if cost not in ("sqeuclidean", "euclidean"):
            raise ValueError(f"cost={cost!r}: {nearest(cost, ('sqeuclidean', 'euclidean'))}")
        if x0 is None or x1 is None:
            raise TypeError(f"x0 and x1 are needed for cost={cost!r}")
        clouds = _cloud("x0", x0, batched), _cloud("x1", x1, batched)
        device = x0.device
        _check_clouds(*clouds)
        dtype = torch.promote_types(clouds[0].dtype, clouds[1].dtype)
        if device != x1.device:
            raise ValueError(f"x1: expected device {device} as x0, got {x1.device}")
        first, second = (x.to(dtype) for x in clouds)
        if not on_device:
            first, second = first.cpu(), second.cpu()
        first, second = first.contiguous(), second.contiguous()
        return Problem(first, second, None, cost == "euclidean", device)
    if callable(cost) and not isinstance(cost, Tensor):
        if x0 is None or x1 is None:
            raise TypeError("x0 and x1 are needed for a cost function")
        cost = cost(x0, x1)
    if isinstance(cost, np.ndarray):
        cost = torch.from_numpy(cost)
    if not isinstance(cost, Tensor):
        raise TypeError(f"cost: expected a name, a tensor or a function of one, got {cost!r}")
    if cost.ndim != 2 + batched or 0 in cost.shape:
        raise ValueError(
            f"cost: expected a matrix of shape {'[N, n, m]' if batched else '[n, m]'}, none of "
            f"them 0, got {tuple(cost.shape)}; batched={batched}"
        )
    matrix = cost.detach() if batched else cost.detach()[None]
    for name, x, size in (("x0", x0, cost.shape[-2]), ("x1", x1, cost.shape[-1])):
        if x is not None and (x.ndim <= batched or x.shape[int(batched)] != size):
            raise ValueError(
                f"{name}: expected {size} points, as in the cost {tuple(cost.shape)}, "
                f"got {tuple(x.shape)}"
            )
    matrix = _number(matrix)
    return Problem(None, None, matrix if on_device else matrix.cpu(), False, cost.device)


def _number(x: Tensor) -> Tensor:
    if x.dtype == torch.float64 or not x.dtype.is_floating_point:
        return x.double()
    return x.float()


def _cloud(name: str, x: Tensor, batched: bool) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    if x.is_complex():
        raise TypeError(f"{name}: expected real numbers, got {x.dtype}")
    if x.ndim < 1 + batched or x.numel() == 0:
        shape = "[N, n, ...]" if batched else "[n, ...]"
        raise ValueError(f"{name}: expected shape {shape}, not empty, got {tuple(x.shape)}")
    x = _number(x.detach())
    return (x if batched else x[None]).flatten(2) if x.ndim > 1 + batched else _scalars(x, batched)


def _scalars(x: Tensor, batched: bool) -> Tensor:
    return (x if batched else x[None])[..., None]


def _check_clouds(x0: Tensor, x1: Tensor) -> None:
    if len(x0) != len(x1):
        raise ValueError(f"x1: expected {len(x0)} problems as in x0, got {len(x1)}")
    if x0.shape[2] != x1.shape[2]:
        raise ValueError(f"x1: expected points of {x0.shape[2]} numbers, got {x1.shape[2]}")
