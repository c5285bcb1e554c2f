"""Couplings: which point is paired with which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastgen.common.figures import COLOURS, GREY, axes_of, legend_beside, real_numbers
from fastgen.plots.points import dots, marker_area

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of a dense plan, pairs with less than this part of the largest mass are not drawn.
LEAST_MASS = 0.01


def pairing(
    x0: Any,
    x1: Any,
    permutation: Any,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    **style: Any,
) -> Axes:
    """Draw two clouds of the plane and a line for every pair.

    Args:
        x0: points [n, 2], such as noise, in the first colour.
        x1: points [m, 2], such as data, in the second.
        permutation: what pairs them: [n] with x1[permutation[i]] for x0[i], -1 for none; an
            `Assignment`; indices (i, j), as couplings return them; or a plan with mass [n, m] or a
            `SinkhornResult`, whose lines are as opaque as their mass.
        ax: where to draw; None makes a figure.
        title: of the axes.
        **style: for matplotlib's LineCollection: color, linewidths, alpha ...

    Returns:
        The axes. The lines are its first collection.

    Raises:
        ImportError: without matplotlib.
        TypeError, ValueError: naming the argument.

    Example:
        >>> x0, x1 = fastgen.randn((20, 2), seed=0), fastgen.randn((20, 2), seed=1) + 3
        >>> axes = fastgen.plots.pairing(x0, x1, fastgen.couplings.assign(x0, x1))
    """
    a, b = real_numbers("x0", x0), real_numbers("x1", x1)
    for name, points in (("x0", a), ("x1", b)):
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"{name}: expected points [n, 2], got {list(points.shape)}")
    i, j, mass = _pairs(permutation, len(a), len(b))
    axes = axes_of(ax, (5.2, 4.4))
    from matplotlib.collections import LineCollection

    strength = mass * 0.7 if mass is not None else 0.5
    plan = {"color": GREY, "linewidths": 0.8, "alpha": strength, "zorder": 1, **style}
    axes.add_collection(LineCollection(list(np.stack([a[i], b[j]], 1)), **plan))
    for k, (points, label) in enumerate(((a, "$x_0$"), (b, "$x_1$"))):
        dots(axes, points, 1.5 * marker_area(len(points)), label, color=COLOURS[k], zorder=2)
    legend_beside(axes)
    axes.set_aspect("equal")
    if title is not None:
        axes.set_title(title)
    return axes


def _pairs(
    given: Any, n: int, m: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64] | None]:
    """(i, j), and the mass of each pair as a part of the largest where it is known."""
    from fastgen.couplings import Assignment, SinkhornResult  # not for the sake of a sheet

    if isinstance(given, Assignment):
        given = given.permutation
    elif isinstance(given, SinkhornResult):
        given = given.plan()
    if isinstance(given, tuple) and len(given) == 2:
        i, j = (real_numbers("permutation", part).astype(np.intp) for part in given)
        if i.ndim != 1 or i.shape != j.shape:
            raise ValueError(
                f"permutation: expected indices (i, j) of equal lengths, got {list(i.shape)} and "
                f"{list(j.shape)}"
            )
        return *_inside(i, j, n, m), None
    values = real_numbers("permutation", given)
    if values.shape == (n, m) and values.ndim == 2:
        largest = float(values.max(initial=0.0))
        i, j = np.nonzero(values > LEAST_MASS * largest)
        return i, j, values[i, j] / (largest or 1.0)
    if values.shape != (n,):
        raise ValueError(
            f"permutation: expected [{n}], one partner for each point of x0, or masses "
            f"[{n}, {m}], got {list(values.shape)}"
        )
    partner = values.astype(np.intp)
    i = np.flatnonzero(partner >= 0)
    return *_inside(i, partner[i], n, m), None


def _inside(
    i: NDArray[np.intp], j: NDArray[np.intp], n: int, m: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    for index, count in ((i, n), (j, m)):
        if index.size and not 0 <= index.min() <= index.max() < count:
            raise ValueError(f"permutation: expected indices of {count} points, got {index.max()}")
    return i, j
