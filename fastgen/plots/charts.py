"""Quality charts: what solvers reach with how many network evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fastgen.common.errors import nearest
from fastgen.common.figures import DASHES, GREY, MARKERS, axes_of, colours, legend_beside
from fastgen.common.typed import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Names under which rows have what is drawn upwards, the first found.
MEASURES = ("frechet", "error", "rms", "fid", "distance", "w2")


def quality(
    rows: Iterable[Any],
    ax: Axes | None = None,
    *,
    y: str | None = None,
    x: str = "nfe",
    by: str = "solver",
    title: str | None = None,
    **style: Any,
) -> Axes:
    """Draw what each solver reaches with how many network evaluations, on logarithmic axes.

    Args:
        rows: dictionaries, or objects with attributes, one for each run; numbers may be texts, as
            the csv module reads them. A row with no evaluations (0 or empty), such as the distance
            of real data, is a dashed line across.
        ax: where to draw; None makes a figure.
        y: what is drawn upwards; None takes the first of "frechet", "error", "rms", "fid",
            "distance", "w2" that the rows have.
        x: what is drawn along.
        by: what a line is of; lines are in the order in which they come.
        title: of the axes.
        **style: for matplotlib's plot.

    Returns:
        The axes.

    Raises:
        ImportError: without matplotlib.
        TypeError, ValueError: naming the argument, or a row that lacks a number.

    Example:
        >>> rows = [{"solver": "heun", "nfe": n, "error": n**-2} for n in (5, 10, 20)]
        >>> axes = fastgen.plots.quality(rows)  # or quality(csv.DictReader(file))
    """
    listed = [_fields(row) for row in rows]
    if y is None:
        found = [name for name in MEASURES if listed and name in listed[0]]
        if listed and not found:
            raise ValueError(f"y: none of {', '.join(MEASURES)} in {sorted(listed[0])}; name one")
        y = found[0] if found else MEASURES[0]
    series: dict[str, list[tuple[float, float]]] = {}
    for k, row in enumerate(listed):
        for name in (x, y, by):
            if name not in row:
                raise ValueError(f"rows: row {k} has no {name!r}; {nearest(name, row)}")
        place = _number(row[x], f"rows: row {k}: {x}") if row[x] not in ("", None) else 0.0
        series.setdefault(str(row[by]), []).append((place, _number(row[y], f"rows: row {k}: {y}")))

    axes = axes_of(ax, (6.4, 4.0))
    ticks = set()
    lines = [(label, sorted(p for p in points if p[0] > 0)) for label, points in series.items()]
    lines = [(label, points) for label, points in lines if points]
    shades = colours(len(lines))
    for k, (label, points) in enumerate(lines):
        ticks |= {place for place, _ in points}
        plan: dict[str, Any] = {"color": shades[k], "marker": MARKERS[k % len(MARKERS)]}
        again = shades[:k].count(shades[k])
        plan |= {"linestyle": DASHES[again % len(DASHES)], "markersize": 5, "linewidth": 1.4}
        axes.plot(*zip(*points, strict=True), label=label, **{**plan, **style})
    for label, points in series.items():
        for place, value in points:
            if place == 0:
                axes.axhline(value, color=GREY, linestyle="--", linewidth=1, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    if 0 < len(ticks) <= 12:
        axes.set_xticks(sorted(ticks), [f"{t:g}" for t in sorted(ticks)], minor=False)
        axes.set_xticks([], minor=True)
    axes.set_xlabel("network evaluations" if x == "nfe" else x)
    axes.set_ylabel({"frechet": "Fréchet distance", "w2": "$W_2$"}.get(y, y))
    axes.grid(alpha=0.3)
    if series:
        legend_beside(axes)
    if title is not None:
        axes.set_title(title)
    return axes


def _fields(row: Any) -> dict[str, Any]:
    if isinstance(row, Mapping):
        return dict(row)
    if hasattr(row, "_asdict"):
        return dict(row._asdict())
    if hasattr(row, "__dict__"):
        return dict(vars(row))
    raise TypeError(f"rows: expected dictionaries or objects with attributes, got {shown(row)}")


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{where}={value!r}: expected a number") from None
    return number if math.isfinite(number) else math.nan
