"""Checked inputs of assignment problems, and their matrices of costs where they are needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fastgen.common.errors import nearest

try:
    import fastgen._C as _C
except ImportError:  # not built: there are no matrices but the caller's
    _C = None  # type: ignore[assignment]

Cost = Literal["sqeuclidean", "euclidean"] | Tensor | Callable[[Tensor, Tensor], Tensor]

# Up to so many dimensions the costs of points are computed when they are needed.
POINTS_UP_TO = 8


@dataclass(frozen=True)
class Problem:
    """Clouds [N, n, d] and [N, m, d], or a matrix [N, n, m], in float32 or float64.

    On the CPU unless made with on_device=True. `device`: of the arguments.
    """

    x0: Tensor | None
    x1: Tensor | None
    matrix: Tensor | None
    root: bool
    device: torch.device
    names: tuple[str, str] = ("x0", "x1")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """N, n and m."""
        if self.matrix is not None:
            count, n, m = self.matrix.shape
            return count, n, m
        assert self.x0 is not None
        assert self.x1 is not None
        return len(self.x0), self.x0.shape[1], self.x1.shape[1]


def problem(
    x0: Tensor | None, x1: Tensor | None, cost: Cost, batched: bool, on_device: bool = False
) -> Problem:
    """The checked problem.

    Args:
        on_device: nothing is copied to the CPU.

    Numbers that are not finite are the solver's to find, on its way (see `check_finite`).

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


def check_finite(problem: Problem) -> None:
    """Raises a ValueError that names the cloud with a number that is not finite."""
    for name, x in zip(problem.names, (problem.x0, problem.x1), strict=True):
        assert x is not None
        # A sum is fast, and finite unless a number is not or the sum overflows.
        if not torch.isfinite(x.sum()) and not torch.isfinite(x).all():
            raise ValueError(f"{name}: expected finite numbers")


def centred(x0: Tensor, x1: Tensor, root: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The clouds less their means, and the mean of x0 less that of x1, [N, d].

    If each cloud is centred by itself, squared distances change by constants of rows and columns,
    which matter only where a column may be left over. Otherwise both lose the mean of x1.
    """
    centre = x1.mean(1, keepdim=True)
    if root or x0.shape[1] != x1.shape[1]:
        return x0 - centre, x1 - centre, torch.zeros_like(centre[:, 0])
    own = x0.mean(1, keepdim=True)
    return x0 - own, x1 - centre, (own - centre)[:, 0]


def matrix_of(x0: Tensor, x1: Tensor, squares: tuple[Tensor, Tensor], root: bool) -> Tensor:
    """Costs [N, n, m] of clouds by matrix multiplication; `squares` [N, n], [N, m] of the points.

    Of squared distances |a|^2 is left out, a constant of each row.
    """
    count = len(x0)
    costs = _C.pooled((count, x0.shape[1], x1.shape[1]), x0.dtype == torch.float64)
    if count == 1:
        torch.addmm(squares[1], x0[0], x1[0].T, alpha=-2, out=costs[0])
    else:
        torch.baddbmm(squares[1][:, None, :], x0, x1.mT, alpha=-2, out=costs)
    if root:
        costs.add_(squares[0][:, :, None]).clamp_(min=0).sqrt_()
    return costs


def squared_norms(x: Tensor) -> tuple[Tensor, float]:
    """|x_i|^2 [N, n], and of |x|^2 the part that is of the mean, the most of any problem.

    NaN or infinite where a number or its square is, and for clouds of zeros.
    """
    count, n, dims = x.shape
    squares = x.new_empty(count, n)
    float64 = x.dtype == torch.float64
    parts = [
        _C.moments(one.data_ptr(), n, dims, float64, of_one.data_ptr())
        for one, of_one in zip(x, squares, strict=True)
    ]
    return squares, math.nan if any(map(math.isnan, parts)) else max(parts)
