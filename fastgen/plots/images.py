"""Samples: sheets of images, clouds of points, histograms of numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastgen.common.checks import check_pair, check_whole
from fastgen.common.figures import axes_of, colours, legend_beside, real_numbers
from fastgen.plots.points import dots, finite_rows, groups_of, marker_area

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A pixel that is not a number, which no grey picture has by itself.
NOT_A_NUMBER = (0.80, 0.20, 0.55)
Limits = tuple[float, float]
# Inches of a sheet.
_LARGEST_SHEET = 8.0


def samples(
    x: Any,
    ax: Axes | None = None,
    *,
    labels: Any = None,
    columns: int | None = None,
    limits: Limits | None = None,
    invert: bool = False,
    title: str | None = None,
    **style: Any,
) -> Axes:
    """Draw a batch: images as a sheet, points in the plane as a cloud, numbers as a histogram.

    Args:
        x: [B, C, H, W] or [B, H, W] images, see `sheet`; [B, 2] points; [B] or [B, 1] numbers. A
            tensor of any device and dtype, or an array. Numbers that are not finite are not drawn,
            but as pixels: those that are NaN are magenta.
        ax: where to draw; None makes a figure.
        labels: [B], the class of each point or number, told apart by colour; not for images.
        columns: images in a row of the sheet; None makes it about square.
        limits: the values that are black and white, see `sheet`.
        invert: dark on bright ground, as digits are printed; for images of one channel.
        title: of the axes.
        **style: for matplotlib's scatter, hist or imshow.

    Returns:
        The axes.

    Raises:
        ImportError: without matplotlib.
        TypeError, ValueError: naming the argument.

    Example:
        >>> x = fastgen.randn((16, 3, 8, 8), seed=0)  # or what fastgen.sample gave
        >>> axes = fastgen.plots.samples(x, columns=8)
    """
    values = real_numbers("x", x)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    flat = values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 2)
    if not flat and values.ndim not in (3, 4):
        raise ValueError(
            f"x: expected images [B, C, H, W] or [B, H, W], points [B, 2] or numbers [B], got "
            f"{list(values.shape)}; of points in more dimensions choose two, x[:, :2]"
        )
    if not flat:
        if labels is not None:
            raise ValueError("labels: of points and numbers; images are drawn in their order")
        pixels = sheet(x, columns=columns, limits=limits, invert=invert)
        drawn = _imshow(pixels, ax, style)
    else:
        for name, given in (("columns", columns), ("limits", limits), ("invert", invert or None)):
            if given is not None:
                raise ValueError(f"{name}: of images [B, C, H, W], got x {list(values.shape)}")
        groups = groups_of(labels, len(values))
        drawn = _cloud(values, groups, ax, style)
    if title is not None:
        drawn.set_title(title)
    return drawn


def sheet(
    x: Any, columns: int | None = None, *, limits: Limits | None = None, invert: bool = False
) -> NDArray[np.float64]:
    """Images as one picture [height, width, 4] in [0, 1], for any program that shows or writes one.

    Lines of one pixel between the images are transparent. Images of 1 channel are grey, of 3 in
    colours; of any other number, latents for example, the channels stand side by side in grey.

    Args:
        x: [B, C, H, W] or [B, H, W], a tensor or an array.
        columns: images in a row; None makes the sheet about square.
        limits: the values that are black and white; what lies beyond is clipped. None: (0, 255) for
            bytes that reach beyond 1; otherwise (-1, 1) where some are negative, (0, 1) where none
            is and none exceeds 1, else from 0 to the largest; for other than 1 or 3 channels from
            the smallest number to the largest.
        invert: black and white exchanged; NaN stays magenta.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    values = real_numbers("x", x)
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4 or 0 in values.shape[1:]:
        raise ValueError(f"x: expected images [B, C, H, W] or [B, H, W], got {list(values.shape)}")
    low, high = _limits(values, limits, str(getattr(x, "dtype", "")).endswith("uint8"))
    batch, channels, height, width = values.shape
    beside = 1 if channels in (1, 3) else channels
    if columns is None:
        columns = max(1, math.ceil(math.sqrt(batch / beside)))
    check_whole("columns", columns, 1)
    with np.errstate(invalid="ignore"):
        values = np.clip((values - low) / (high - low), 0, 1)
    if invert:
        values = 1 - values
    if beside > 1:
        values, columns = values.reshape(-1, 1, height, width), columns * beside
    colours = np.broadcast_to(values, (len(values), 3, height, width)).transpose(0, 2, 3, 1)
    colours = np.where(np.isnan(colours).any(-1, keepdims=True), NOT_A_NUMBER, colours)
    rows = max(1, -(-len(values) // columns))
    columns = max(1, min(columns, len(values)))
    picture = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, 4))
    for k, image in enumerate(colours):
        top, left = k // columns * (height + 1), k % columns * (width + 1)
        picture[top : top + height, left : left + width, :3] = image
        picture[top : top + height, left : left + width, 3] = 1
    return picture


def _limits(values: NDArray[np.float64], given: Limits | None, are_bytes: bool) -> Limits:
    if given is not None:
        low, high = check_pair("limits", given)
        if not (low < high and math.isfinite(high - low)):
            raise ValueError(f"limits={given!r}: expected finite numbers (low, high), low < high")
        return low, high
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if are_bytes and high > 1:
        return 0.0, 255.0
    if values.shape[1] not in (1, 3):
        return (low, high) if low < high else (low - 1, low + 1)
    if low < 0:
        return -1.0, 1.0
    return 0.0, max(1.0, high)


def _imshow(pixels: NDArray[np.float64], ax: Axes | None, style: dict[str, Any]) -> Axes:
    height, width = pixels.shape[:2]
    # Small images are shown larger, and no sheet is larger than a page.
    inches = min(_LARGEST_SHEET, max(3.0, max(height, width) / 24))
    size = inches * width / max(height, width), inches * height / max(height, width)
    axes = axes_of(ax, (max(size[0], 1.0), max(size[1], 0.6)))
    axes.imshow(pixels, **{"interpolation": "nearest", **style})
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return axes


def _cloud(
    values: NDArray[np.float64],
    groups: dict[str, NDArray[np.intp]],
    ax: Axes | None,
    style: dict[str, Any],
) -> Axes:
    axes = axes_of(ax, (4.0, 4.0) if values.ndim == 2 else (5.0, 3.2))
    for shade, (label, chosen) in zip(colours(len(groups)), groups.items(), strict=True):
        if values.ndim == 2:
            plan = {"color": shade, "alpha": 0.7, **style}
            dots(axes, values[chosen], plan.pop("s", marker_area(len(values))), label, **plan)
            continue
        kept = finite_rows(values[chosen])
        named = {"label": label} if label else {}
        bins = min(60, max(10, int(math.sqrt(len(kept)))))
        plan = {"bins": bins, "color": shade, "alpha": 0.7, "density": len(kept) > 0}
        axes.hist(kept, **{**plan, **named, **style})
    if values.ndim == 2:
        axes.set_aspect("equal")
    else:
        axes.set_ylabel("density")
    if groups and "" not in groups:
        legend_beside(axes)
    return axes
