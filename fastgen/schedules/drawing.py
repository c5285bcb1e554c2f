"""Drawing a schedule: alpha, sigma and the log signal-to-noise ratio over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastgen.common.figures import COLOURS, GREY, real_numbers, stacked_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

POINTS = 401
# Noise scales that reach beyond this are drawn on a logarithmic axis, as alpha stays near 1.
_LARGE = 5.0


def draw_schedule(
    schedule: Any, times: Any, ax: Axes | None, style: dict[str, Any]
) -> Figure | SubFigure:
    """What `fastgen.schedules.Schedule.plot` draws of a schedule."""
    marks = _marks(times)
    t = np.unique(np.concatenate([np.linspace(0, 1, POINTS), [schedule.t_min, schedule.t_max]]))
    figure, (upper, lower) = stacked_axes(ax, (1.0, 1.0), (5.6, 4.6))
    for k, name in enumerate(("alpha", "sigma")):
        function = getattr(schedule, name)
        plan = {"color": COLOURS[k], "linewidth": 1.6, "label": rf"$\{name}$", **style}
        upper.plot(t, function(t), **plan)
        upper.plot(marks, function(marks), "o", color=COLOURS[k], markersize=4)
    if schedule.sigma(1.0) > _LARGE:
        upper.set_yscale("log")
    upper.legend(loc="best")
    lower.plot(t, _finite(schedule.log_snr(t)), **{"color": COLOURS[2], "linewidth": 1.6, **style})
    lower.plot(marks, _finite(schedule.log_snr(marks)), "o", color=COLOURS[2], markersize=4)
    for axes in (upper, lower):
        for mark in marks:
            axes.axvline(mark, color=GREY, linewidth=0.5, alpha=0.5, zorder=0)
    lower.set_ylabel("log SNR")
    lower.set_xlabel("t, from data (0) to noise (1)")
    return figure


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The limits at the ends are left out."""
    return np.where(np.isfinite(values), values, np.nan)


def _marks(times: Sequence[float] | Any) -> NDArray[np.float64]:
    if times is None:
        return np.zeros(0)
    marks = real_numbers("times", times)
    if marks.ndim != 1 or not ((marks >= 0) & (marks <= 1)).all():
        raise ValueError(f"times: expected [N] times in [0, 1], got {times!r}")
    return marks
