"""Charts of error against evaluations: from kept rows, or measured here where there are none."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import closed_forms

from fastgen.solvers import names

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
BUDGETS = (4, 5, 6, 8, 10, 15, 20, 50)
PANELS = {"Gaussian mixture, d = 64": "mixture, d = 64", "Digits, d = 64": "digits, d = 64"}
GRIDS = {"karras": "#0b5fa5", "log_snr": "#b3470b", "uniform": "#1b7f4b"}
GREY = "#9a9a9a"
ADAPTIVE_CAPTION = (
    "Measured when this page was built: 128 points of a mixture of 16 Gaussians in two dimensions, "
    "whose score is known, on the linear VP schedule. Each curve goes over rtol = atol = 1e-2 to "
    "1e-5. Across: evaluations, the mean over the points. Up: root mean square distance to the "
    "endpoint of 256 steps of rk4 from the same noise."
)

Curve = list[tuple[float, float]]


@cache
def kept() -> dict[tuple[str, str, str], dict[str, str]]:
    """Rows of kept quality by (problem with its grid, solver, metric)."""
    with (RESULTS / "cpu-quality-runs.csv").open() as file:
        runs = {r["run"]: r for r in csv.DictReader(file)}
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    with (RESULTS / "cpu-quality.csv").open() as file:
        for r in csv.DictReader(file):
            run = runs[r["run"]]
            if run["version"].startswith("fastgen"):
                found[run["problem"], r["provider"], r["metric"]] = r
    return found


def curve(problem: str, solver: str, metric: str) -> Curve:
    """(evaluations, error), for the budgets that the solver could use."""
    row = kept().get((problem, solver, metric))
    if row is None:
        return []
    used = kept().get((problem, solver, "evaluations"), {})
    points: dict[float, float] = {}
    for budget in BUDGETS:
        error = row[f"NFE {budget}"]
        if error and float(error) > 1e-12:
            points[float(used.get(f"NFE {budget}") or budget)] = float(error)
    return sorted(points.items())


def metric_of(solver: str) -> str:
    """The distance to the exact endpoint, or that in law where noise is added."""
    if any(key[1] == solver and key[2] == "rms" for key in kept()):
        return "rms"
    return "sliced_w2"


@cache
def best(problem: str, metric: str) -> Curve:
    """The least error of any solver for each budget."""
    least: dict[float, float] = {}
    for found, solver, of in kept():
        if found == problem and of == metric:
            for evaluations, error in curve(problem, solver, metric):
                least[evaluations] = min(error, least.get(evaluations, error))
    return [(b, least[b]) for b in sorted(least) if b in BUDGETS]


def is_kept(solver: str) -> bool:
    """Whether the kept rows have the solver."""
    return any(key[1] == solver for key in kept())


def alt(solver: str) -> str:
    """The figure in words."""
    return f"Error of {solver} against the number of network evaluations"


def caption(solver: str) -> str:
    """What the figure shows."""
    if not is_kept(solver):
        return closed_forms.CAPTIONS[solver]
    if metric_of(solver) == "rms":
        what = "the root mean square distance to the exact endpoint of the flow from the same noise"
    else:
        what = "the sliced Wasserstein distance to exact samples; dotted, that of two exact sets"
    return (
        f"Up: {what}. The denoisers are exact, so that the error is the solver's. Colours are time "
        "grids; grey is the best of all solvers of this kind on the grid ``log_snr``. Medians "
        "over three seeds, from the `kept rows <../benchmarks.html#quality>`__."
    )


def _panel(axes: Any, title: str, problem: str, solver: str, metric: str) -> None:
    reference = best(f"{problem}, log_snr", metric)
    axes.loglog(*zip(*reference, strict=True), color=GREY, linewidth=3, label="best of all")
    for grid, colour in GRIDS.items():
        points = curve(f"{problem}, {grid}", solver, metric)
        if points:
            axes.loglog(*zip(*points, strict=True), "o-", color=colour, markersize=4, label=grid)
    floor = kept().get((f"{problem}, log_snr", solver, metric), {}).get("floor")
    if floor:
        axes.axhline(float(floor), color="black", linestyle=":", linewidth=1)
    decorate(axes, title)


def decorate(axes: Any, title: str) -> None:
    """Title, grid and plain numbers of evaluations."""
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("network evaluations")
    axes.grid(True, alpha=0.3)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    low, high = axes.get_xlim()
    axes.set_xticks([t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if low <= t <= high])
    axes.legend(fontsize=8, frameon=False)


def _draw_kept(figure: Any, solver: str) -> None:
    metric = metric_of(solver)
    for axes, (title, problem) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        _panel(axes, title, problem, solver, metric)
    figure.axes[0].set_ylabel({"rms": "distance", "sliced_w2": "sliced W2"}[metric])


def _draw_measured(figure: Any, curves: Iterable[tuple[str, Curve]], label: str) -> None:
    axes = figure.subplots()
    for name, points in curves:
        axes.loglog(*zip(*points, strict=True), "o-", markersize=4, label=name)
    axes.set_ylabel(label)
    decorate(axes, "")


def _save(path: Path, size: tuple[float, float], draw: Callable[[Any], None]) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "fastgen", "svg.fonttype": "none"}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(path, metadata={"Date": None})


def draw_all(folder: Path) -> None:
    """Draw what is older than the rows and than this code."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = [*Path(__file__).parent.glob("*.py"), RESULTS / "cpu-quality.csv"]
    newest = max(p.stat().st_mtime for p in sources if p.name in _DRAWN_FROM)
    due = [n for n in (*names(), "adaptive") if _older(folder / f"{n}.svg", newest)]
    for name in due:
        path = folder / f"{name}.svg"
        if name == "adaptive":
            curves = closed_forms.adaptive()
            _save(path, (6.4, 4), lambda f, c=curves: _draw_measured(f, c, "distance"))
        elif is_kept(name):
            _save(path, (8, 3.4), lambda f, n=name: _draw_kept(f, n))
        else:
            curves = closed_forms.MEASURES[name]()
            _save(path, (6.4, 3.4), lambda f, c=curves: _draw_measured(f, c, "sliced W2"))


_DRAWN_FROM = {"solver_charts.py", "closed_forms.py", "cpu-quality.csv"}


def _older(path: Path, newest: float) -> bool:
    return not path.exists() or path.stat().st_mtime < newest
