"""Trajectories: states from noise to data, in the plane or over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastgen.common.checks import check_whole
from fastgen.common.figures import GREY, axes_of, colours, legend_beside, real_numbers
from fastgen.plots.points import dots, groups_of, marker_area

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def trajectories(
    states: Any,
    times: Any = None,
    ax: Axes | None = None,
    *,
    labels: Any = None,
    lines: int = 200,
    ends: bool = True,
    title: str | None = None,
    **style: Any,
) -> Axes:
    """Draw where samples come from, the ways they take and where they arrive.

    Args:
        states: [T, B, 2] in the plane, as ``trajectory=True`` and `fastgen.odeint` return them; or
            [T, B] or [T, B, 1], drawn over time.
        times: [T], for states of one number; None counts them.
        ax: where to draw; None makes a figure.
        labels: [B], classes whose ends are told apart by colour.
        lines: samples whose way is drawn, at most; the ends of all are.
        ends: whether to mark the first states (grey) and the last (in colour).
        title: of the axes.
        **style: for matplotlib's LineCollection: color, linewidths, alpha ...

    Returns:
        The axes. The lines are its first collection.

    Raises:
        ImportError: without matplotlib.
        TypeError, ValueError: naming the argument.

    Example:
        >>> flow = lambda x, t: x - 2 * torch.sign(x)
        >>> model = fastgen.Model(flow, fastgen.schedules.Rectified(), "velocity")
        >>> x, states = fastgen.sample(model, (50, 2), "heun", 10, trajectory=True)
        >>> axes = fastgen.plots.trajectories(states)
    """
    values = real_numbers("states", states)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    planar = values.ndim == 3 and values.shape[2] == 2
    if not (planar or values.ndim == 2) or not len(values):
        raise ValueError(
            f"states: expected [T, B, 2], or [T, B] over time, got {list(values.shape)}; of states "
            "with more numbers choose two, states[..., :2]"
        )
    check_whole("lines", lines, 0)
    count, batch = values.shape[:2]
    if planar:
        if times is not None:
            raise ValueError("times: of states [T, B] of one number; those in the plane have none")
        points = values
    else:
        along = np.arange(count) if times is None else real_numbers("times", times)
        if along.shape != (count,):
            raise ValueError(f"times: expected [{count}], got {list(along.shape)}")
        points = np.stack([np.broadcast_to(along[:, None], values.shape), values], -1)
    groups = groups_of(labels, batch)

    axes = axes_of(ax, (4.2, 4.2) if planar else (6.0, 3.4))
    # Evenly over the batch, so that no class that comes late is left out.
    shown = np.unique(np.linspace(0, max(batch - 1, 0), min(lines, batch)).astype(int))
    _lines(axes, points[:, shown], style)
    if ends:
        area = marker_area(batch)
        dots(axes, points[0], area / 2, "", color=GREY, zorder=2)
        for shade, (label, chosen) in zip(colours(len(groups)), groups.items(), strict=True):
            dots(axes, points[-1][chosen], area, label, color=shade, zorder=3)
        if labels is not None and groups:
            legend_beside(axes)
    if planar:
        axes.set_aspect("equal")
    else:
        axes.set_xlabel("time" if times is not None else "step")
    if title is not None:
        axes.set_title(title)
    return axes


def _lines(axes: Axes, points: NDArray[np.float64], style: dict[str, Any]) -> None:
    from matplotlib.collections import LineCollection

    strong = float(np.clip(60 / max(points.shape[1], 1), 0.3, 0.9))
    plan = {"color": GREY, "linewidths": 0.7, "alpha": strong, "zorder": 1, **style}
    if "colors" in style:
        plan.pop("color")
    axes.add_collection(LineCollection(list(points.swapaxes(0, 1)), **plan))
    axes.autoscale_view()
