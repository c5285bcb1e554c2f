"""What pictures share: matplotlib when it is needed, axes, colours, tensors as numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgen.common.typed import is_dense, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Told apart by people who see fewer colours: of Okabe and Ito 2008, and where there are more of
# Tol 2021 (muted).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MANY = (
    *("#332288", "#CC6677", "#117733", "#88CCEE", "#882255"),
    *("#DDCC77", "#44AA99", "#AA4499", "#999933", "#EE7733"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
GREY = "#808080"
# Uniform in lightness, so that it survives print and fewer colours; around 0 from one to another.
SEQUENTIAL, DIVERGING = "viridis", "PuOr_r"


def pyplot() -> Any:
    """`matplotlib.pyplot`.

    Raises:
        ImportError: where it is not installed, naming how it is.
    """
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ImportError("drawing needs matplotlib: pip install matplotlib") from error
    return plt


def axes_of(ax: Axes | None, size: tuple[float, float] | None = None) -> Axes:
    """The axes given, or those of a new figure, of a size in inches.

    Raises:
        ImportError: where matplotlib is not installed.
        TypeError: for something else than axes.
    """
    if ax is None:
        made: Axes = pyplot().subplots(figsize=size, layout="constrained")[1]
        return made
    if not hasattr(ax, "add_collection"):
        remedy = "; it is one of figure.axes" if hasattr(ax, "subplots") else ""
        raise TypeError(f"ax={shown(ax)}: expected the Axes of a matplotlib figure{remedy}")
    return ax


def stacked_axes(
    ax: Axes | None, heights: tuple[float, ...], size: tuple[float, float], *, share: bool = True
) -> tuple[Figure | SubFigure, list[Axes]]:
    """Axes below one another, in a new figure or in the place of ``ax``.

    Args:
        ax: axes whose place is taken and divided, or None.
        heights: of the axes, from the top, relative.
        size: of a new figure in inches.
        share: whether all have the same x, which is named at the lowest.

    Raises:
        ImportError: where matplotlib is not installed.
        TypeError, ValueError: for axes that cannot be divided.
    """
    count = len(heights)
    if ax is None:
        figure, made = pyplot().subplots(
            count, sharex=share, figsize=size, height_ratios=heights, layout="constrained"
        )
        return figure, list(made)
    first = axes_of(ax)
    figure, spec = first.figure, first.get_subplotspec()
    if spec is None:
        raise ValueError("ax: expected axes made by subplots, whose place can be divided")
    grid = spec.subgridspec(count, 1, height_ratios=heights)
    first.remove()
    top = figure.add_subplot(grid[0])
    shared = top if share else None
    rest = [figure.add_subplot(grid[k], sharex=shared) for k in range(1, count)]
    for above in [top, *rest][:-1] if share else []:
        above.tick_params(labelbottom=False)
    return figure, [top, *rest]


def real_numbers(name: str, x: Any) -> NDArray[np.float64]:
    """The numbers of a tensor of any device, dtype and mode, or of an array, in float64.

    Raises:
        TypeError: for what has no real numbers: other types, complex, sparse or fake tensors.
    """
    if isinstance(x, Tensor):
        if not is_dense(x) or x.is_complex():
            raise TypeError(f"{name}={shown(x)}: expected a dense tensor of real numbers")
        if x.is_meta or type(x).__name__ == "FakeTensor":
            raise TypeError(f"{name}={shown(x)}: it has a shape but no numbers to draw")
        with torch.no_grad():
            x = x.detach().cpu().to(torch.float64).numpy()
    try:
        found = np.asarray(x)
        if found.dtype.kind not in "biuf":
            raise TypeError
        return found.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name}={shown(x)}: expected a tensor or an array of numbers") from None


def colours(count: int) -> list[str]:
    """So many colours; they come again after ten."""
    known = COLOURS if count <= len(COLOURS) else _MANY
    return [known[k % len(known)] for k in range(count)]


def legend_beside(axes: Axes) -> None:
    """Name what has a label, to the right of the axes, where it covers nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize="small")
