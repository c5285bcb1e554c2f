"""Points of the plane: their classes, finite ones, and grids over a rectangle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgen.common.checks import check_number
from fastgen.common.figures import real_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A number r for (-r, r, -r, r), or (left, right, bottom, top).
Bounds = float | Sequence[float]


def groups_of(labels: Any, count: int) -> dict[str, NDArray[np.intp]]:
    """The samples of each label, in the labels' order; all under "" where there are none."""
    if labels is None:
        return {"": np.arange(count)}
    found = real_numbers("labels", labels)
    if found.shape != (count,):
        raise ValueError(
            f"labels: expected one for each of {count} samples, got {list(found.shape)}"
        )
    return {f"{value:g}": np.flatnonzero(found == value) for value in np.unique(found)}


def finite_rows(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rows [N, ...] all of whose numbers are finite."""
    return values[np.isfinite(values).all(tuple(range(1, values.ndim)))]


def dots(axes: Axes, points: NDArray[np.float64], area: float, label: str, **style: Any) -> None:
    """Mark the finite ones of points [N, 2], under a name in the legend if there is one."""
    named = {"label": label} if label else {}
    x, y = finite_rows(points).T
    axes.scatter(x, y, **{"s": area, "linewidths": 0, **named, **style})


def marker_area(count: int) -> float:
    """Of points in a cloud, in square points: dense clouds are of small ones."""
    return float(np.clip(4000 / max(count, 1), 2, 16))


def bounds_of(bounds: Any) -> tuple[float, float, float, float]:
    """(left, right, bottom, top), or an error that names the argument."""
    wanted = "expected a number r for (-r, r, -r, r), or (left, right, bottom, top)"
    if isinstance(bounds, Sequence) and not isinstance(bounds, str | bytes):
        if len(bounds) != 4:
            raise ValueError(f"bounds={bounds!r}: {wanted}")
        left, right, bottom, top = (check_number("bounds", b) for b in bounds)
    else:
        right = top = check_number("bounds", bounds)
        left = bottom = -right
    if not (left < right and bottom < top) or not math.isfinite(right - left + top - bottom):
        raise ValueError(f"bounds={bounds!r}: {wanted}, with left < right and bottom < top")
    return left, right, bottom, top


def lattice(bounds: Any, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64], Tensor]:
    """``count`` places along each side, and all points [count^2, 2], row by row from below."""
    left, right, bottom, top = bounds_of(bounds)
    x, y = np.linspace(left, right, count), np.linspace(bottom, top, count)
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    return x, y, torch.from_numpy(points)
