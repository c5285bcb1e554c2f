"""Drawing a solution: states over time, and the sizes of its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils import _pytree as pytree

from fastgen.common.checks import check_whole
from fastgen.common.figures import axes_of, colours, real_numbers, stacked_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


def draw_solution(
    solution: Any, ax: Axes | None, lines: int, style: dict[str, Any]
) -> Figure | SubFigure:
    """What `fastgen.ode.Solution.plot` draws of a solution."""
    check_whole("lines", lines, 1)
    rows = len(solution.status)
    states = [real_numbers("ys", y) for y in pytree.tree_leaves(solution.ys)]
    count = len(states[0])
    # With joint steps the state is one sample of whatever shape.
    flat = np.concatenate(
        [y.reshape(count, rows, int(y[0].size / max(rows, 1))) for y in states], 2
    )
    width = flat.shape[2]
    samples = _evenly(rows, max(1, lines // max(width, 1)))
    numbers = _evenly(width, max(1, lines // max(len(samples), 1)))
    times = np.arange(count) if solution.t is None else real_numbers("t", solution.t)
    shades = colours(len(samples))

    recorded = solution.steps
    if recorded is None:
        upper = axes_of(ax, (6.0, 3.2))
        figure, lower = upper.figure, None
    else:
        figure, (upper, lower) = stacked_axes(ax, (2.0, 1.0), (6.0, 4.6))
    for shade, k in zip(shades, samples, strict=True):
        own = times[k] if times.ndim == 2 else times
        upper.plot(own, flat[:, k][:, numbers], **{"color": shade, "linewidth": 1.2, **style})
    upper.set_ylabel("y")
    bottom = upper
    if recorded is not None and lower is not None:
        bottom = lower
        fields = (recorded.sample, recorded.time, recorded.size, recorded.accepted)
        sample, time, size, accepted = (real_numbers("steps", x) for x in fields)
        for shade, k in zip(shades, samples, strict=True):
            for kept, marker in ((True, "o"), (False, "x")):
                chosen = (sample == k) & (accepted == kept)
                lower.plot(
                    time[chosen],
                    size[chosen],
                    marker,
                    color=shade,
                    markersize=3 if kept else 6,
                    zorder=2 if kept else 3,
                    gid="accepted" if kept else "rejected",
                )
        lower.set_yscale("log")
        rejected = int((accepted == 0).sum())
        lower.set_ylabel("step size")
        lower.set_title(
            f"{len(sample) - rejected} steps, {rejected} rejected (×)", fontsize="small", loc="left"
        )
    bottom.set_xlabel("output" if solution.t is None else "t")
    return figure


def _evenly(count: int, most: int) -> np.ndarray[Any, np.dtype[np.intp]]:
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).astype(np.intp))
