"""Maps of the plane: vector fields as arrows, densities as colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgen.common.checks import check_choice, check_positive, check_shape, check_whole
from fastgen.common.figures import SEQUENTIAL, axes_of, real_numbers
from fastgen.common.typed import shown
from fastgen.model.model import Model
from fastgen.plots.points import Bounds, lattice

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUANTITIES = ("velocity", "score", "noise", "data")
WAYS = ("sampling", "time")


def vector_field(
    model: Model | Callable[[Tensor, Tensor], Tensor],
    t: float,
    bounds: Bounds,
    ax: Axes | None = None,
    *,
    quantity: str = "velocity",
    way: str = "sampling",
    density: int = 20,
    streamlines: bool = False,
    net_kwargs: Mapping[str, Any] | None = None,
    title: str | None = None,
    **style: Any,
) -> Axes:
    """Draw a field of the plane at one time as arrows, coloured by their length.

    Args:
        model: a `Model` of points [B, 2], or a function f(t, y) as of `fastgen.odeint`, with t [B]
            and y [B, 2].
        t: the time; of a model the internal one, 1 for noise and 0 for data, whatever its data_at.
        bounds: r for the square (-r, r, -r, r), or (left, right, bottom, top).
        ax: where to draw; None makes a figure.
        quantity: of a model: "velocity", "score", or what leads from a point to its "data"
            prediction (both as arrows from the point), or the "noise".
        way: of a model's velocity: "sampling", where samples move, from noise to data; or "time",
            dx/dt as it is, from data to noise.
        density: arrows along each side.
        streamlines: lines along the field instead of arrows.
        net_kwargs: for the network: what all points share.
        title: of the axes.
        **style: for matplotlib's quiver or streamplot.

    Returns:
        The axes.

    Raises:
        ImportError: without matplotlib.
        TypeError, ValueError: naming the argument.

    Example:
        >>> flow = lambda x, t: x - 2 * torch.sign(x)
        >>> model = fastgen.Model(flow, fastgen.schedules.Rectified(), "velocity")
        >>> axes = fastgen.plots.vector_field(model, 0.5, 3)
        >>> axes = fastgen.plots.vector_field(lambda t, y: -y, 0.0, (-1, 1, 0, 2))
    """
    check_choice("quantity", quantity, QUANTITIES)
    check_choice("way", way, WAYS)
    check_whole("density", density, 2)
    x, y, points = lattice(bounds, density)
    field = _field(model, t, points, quantity, way, net_kwargs).reshape(density, density, 2)
    u, v = field[..., 0], field[..., 1]
    speed = np.hypot(u, v)
    longest = float(speed.max(initial=0.0, where=np.isfinite(speed))) or 1.0
    axes = axes_of(ax, (4.4, 4.4))
    from matplotlib.colors import Normalize

    # The palest colours are hardly seen on white: they are left to what is not there.
    plan: dict[str, Any] = {"cmap": SEQUENTIAL, "norm": Normalize(0, 1.25 * longest)}
    if streamlines:
        plan |= {"color": speed, "linewidth": 1.0, "arrowsize": 0.8}
        axes.streamplot(x, y, u, v, **{**plan, **style})
    else:
        # The longest arrow reaches beyond its neighbour by half.
        scale = longest * (density - 1) / (x[-1] - x[0]) / 1.5
        plan |= {"angles": "xy", "scale_units": "xy", "scale": scale, "width": 0.004}
        axes.quiver(x, y, u, v, speed, **{**plan, **style})
    axes.set_aspect("equal")
    if title is not None:
        axes.set_title(title)
    return axes


def _field(
    model: Any,
    t: float,
    points: Tensor,
    quantity: str,
    way: str,
    net_kwargs: Mapping[str, Any] | None,
) -> NDArray[np.float64]:
    with torch.no_grad():
        if isinstance(model, Model):
            y = points.to(model.device, torch.float32)
            found = model.predict(quantity, y, t, net_kwargs=net_kwargs)
            if quantity == "data":
                found = found - y
            elif quantity == "velocity" and way == "sampling":
                found = -found
        elif callable(model):
            if net_kwargs is not None or (quantity, way) != ("velocity", "sampling"):
                raise ValueError("quantity, way, net_kwargs: of a Model; got a function f(t, y)")
            y = points.to(torch.float32)
            found = model(torch.full((len(y),), float(t), device=y.device), y)
            check_shape("model", found, y.shape)
        else:
            raise TypeError(f"model={shown(model)}: expected a Model, or a function f(t, y)")
    return real_numbers("model", found)


def likelihood(
    model: Model | Callable[[Tensor], Tensor],
    bounds: Bounds,
    ax: Axes | None = None,
    *,
    resolution: int = 80,
    log: bool = True,
    depth: float = 10.0,
    colorbar: bool = True,
    title: str | None = None,
    style: Mapping[str, Any] | None = None,
    **options: Any,
) -> Axes:
    """Draw a map of a density of the plane in colours.

    Each of its resolution^2 points is one sample of `fastgen.log_likelihood`.

    Args:
        model: a `Model` of points [B, 2], or a function of points [N, 2] that gives their log
            densities [N], to draw the true ones beside.
        bounds: r for the square (-r, r, -r, r), or (left, right, bottom, top).
        ax: where to draw; None makes a figure.
        resolution: points along each side.
        log: draw log p in nats; False draws p.
        depth: of log p: what lies more nats below the largest value has one colour.
        colorbar: whether to add one beside the axes.
        title: of the axes.
        style: for matplotlib's imshow.
        **options: of `fastgen.log_likelihood`: rtol, divergence, net_kwargs ...

    Returns:
        The axes; the map is their image.

    Raises:
        ImportError: without matplotlib.
        TypeError, ValueError: naming the argument.

    Example:
        >>> flow = lambda x, t: x / (1 + t[:, None])
        >>> model = fastgen.Model(flow, fastgen.schedules.Rectified(), "velocity")
        >>> axes = fastgen.plots.likelihood(model, 3, resolution=20, rtol=1e-3, atol=1e-3)
    """
    check_whole("resolution", resolution, 2)
    check_positive("depth", depth, infinite=True)
    x, y, points = lattice(bounds, resolution)
    if isinstance(model, Model):
        from fastgen.likelihood import log_likelihood  # not for the sake of a sheet

        on_device = points.to(model.device, torch.float32)
        values = log_likelihood(model, on_device, **options)
    elif callable(model):
        for name in options:
            raise TypeError(f"{name}: of a Model; got a function of points")
        with torch.no_grad():
            values = model(points.to(torch.float32))
        check_shape("model", values, (len(points),))
    else:
        raise TypeError(f"model={shown(model)}: expected a Model, or a function of points [N, 2]")
    found = real_numbers("model", values).reshape(resolution, resolution)
    finite = found[np.isfinite(found)]
    highest = float(finite.max()) if finite.size else 0.0
    plan: dict[str, Any] = {"cmap": SEQUENTIAL, "origin": "lower"}
    if log:
        plan |= {"vmin": highest - depth, "vmax": highest} if np.isfinite(depth) else {}
    else:
        with np.errstate(over="ignore"):
            found = np.exp(found)
        plan |= {"vmin": 0.0}
    # Values belong to the points, which are the centres of the cells.
    dx, dy = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
    plan["extent"] = (x[0] - dx, x[-1] + dx, y[0] - dy, y[-1] + dy)
    axes = axes_of(ax, (5.0, 4.2))
    image = axes.imshow(found, **{**plan, **(style or {})})
    if colorbar:
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.85)
        bar.set_label("log p, nats" if log else "p")
    if title is not None:
        axes.set_title(title)
    return axes
