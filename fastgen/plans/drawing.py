"""Drawing a plan: where the network is evaluated, and which history every state reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastgen.common.checks import check_choice
from fastgen.common.figures import COLOURS, DIVERGING, GREY, stacked_axes
from fastgen.plans.forms import Computed, Increment, Let, Normal, Prediction, Symbol, Value, name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

OVER = ("time", "log_snr")
# As many names along a side, and as many columns with their numbers in them, can be read.
_MOST_NAMES, _MOST_WRITTEN = 32, 14


def draw_plan(plan: Any, ax: Axes | None, over: str) -> Figure | SubFigure:
    """What `fastgen.Plan.plot` draws of a plan."""
    check_choice("over", over, OVER)
    rows, columns, table = coefficients(plan)
    tall = float(np.clip(0.24 * len(rows), 2.0, 6.0))
    wide = float(np.clip(0.3 * len(columns), 5.0, 10.0))
    figure, (upper, lower) = stacked_axes(ax, (1.4, tall), (wide, tall + 2.4), share=False)
    _evaluations(upper, plan, over)
    _table(lower, rows, columns, table)
    options = "".join(f", {k}={v!r}" for k, v in plan.options.items())
    upper.set_title(f"{plan.solver}{options}: {plan.steps} steps, {plan.nfe} evaluations")
    return figure


def coefficients(plan: Any) -> tuple[list[Symbol], list[Symbol], NDArray[np.float64]]:
    """What is written, what is read, and with which factors [written, read].

    Read are registers, then predictions in the order of their evaluations, then noises.
    """
    lets = [i for i in plan.instructions if isinstance(i, Let)]
    found = {symbol for i in lets for symbol in i.form.terms}
    columns = sorted(found, key=_place)
    at = {symbol: k for k, symbol in enumerate(columns)}
    table = np.zeros((len(lets), len(columns)))
    for row, i in zip(table, lets, strict=True):
        for symbol, c in i.form.terms.items():
            row[at[symbol]] = c
    return [i.value for i in lets], columns, table


def _place(symbol: Symbol) -> tuple[int, int, str]:
    if isinstance(symbol, Value):
        return 0, symbol.index, ""
    if isinstance(symbol, Prediction):
        return 1, symbol.evaluation, symbol.quantity
    return 2, symbol.draw, ""


def _group(symbol: Symbol) -> str:
    if isinstance(symbol, Value):
        return "states"
    if isinstance(symbol, Prediction):
        return "predictions"
    assert isinstance(symbol, Normal | Computed | Increment)
    return "noise"


def _evaluations(axes: Axes, plan: Any, over: str) -> None:
    times = np.array([e.time for e in plan.evaluations])
    values = times if over == "time" else np.asarray(plan.schedule.log_snr(times))
    finite = np.isfinite(values)
    number = np.arange(len(values))
    axes.plot(number[finite], values[finite], "-o", color=COLOURS[0], markersize=4, linewidth=1)
    if not finite.all() and finite.any():  # where alpha or sigma is 0: at the edge
        low, high = values[finite].min(), values[finite].max()
        edge = np.where(values[~finite] < 0, low, high)
        axes.plot(number[~finite], edge, "v", color=COLOURS[1], markersize=6)
    axes.set_xlim(-0.5, max(len(values), 1) - 0.5)
    axes.set_xlabel("network evaluation")
    axes.set_ylabel("t" if over == "time" else "log SNR")
    axes.grid(alpha=0.3)
    axes.locator_params(axis="x", integer=True)


def _table(
    axes: Axes, rows: list[Symbol], columns: list[Symbol], table: NDArray[np.float64]
) -> None:
    from matplotlib.colors import SymLogNorm

    largest = float(np.abs(table).max(initial=0.0)) or 1.0
    norm = SymLogNorm(linthresh=largest / 100, vmin=-largest, vmax=largest)
    shown = np.ma.masked_equal(table, 0.0)  # what is not read has no colour
    image = axes.imshow(shown, cmap=DIVERGING, norm=norm, aspect="auto", interpolation="nearest")
    axes.set_facecolor("none")
    groups = [_group(symbol) for symbol in columns]
    for k in range(1, len(groups)):
        if groups[k] != groups[k - 1]:
            axes.axvline(k - 0.5, color=GREY, linewidth=1)
    for group in dict.fromkeys(groups):
        places = [k for k, g in enumerate(groups) if g == group]
        middle = (places[0] + places[-1]) / 2
        axes.annotate(
            group,
            (middle, 1.0),
            (0, 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontsize="small",
        )
    _names(axes.set_xticks, columns, rotation=90)
    _names(axes.set_yticks, rows)
    axes.set_ylabel("written")
    axes.set_xlabel("read")
    if 0 < len(columns) <= _MOST_WRITTEN:
        for (y, x), c in np.ndenumerate(table):
            if c:
                dark = abs(float(norm(c)) - 0.5) > 0.3
                axes.text(
                    x,
                    y,
                    f"{c:.2g}",
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="white" if dark else "black",
                )
    axes.figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02).set_label("factor")


def _names(put: Any, symbols: list[Symbol], **style: Any) -> None:
    """Names along a side, of every n-th where there are many."""
    stride = max(1, -(-len(symbols) // _MOST_NAMES))
    places = range(0, len(symbols), stride)
    put(list(places), [name(symbols[k]) for k in places], fontsize=7, **style)
