"""Charts of error against evaluations: from kept rows, or measured here where there are none."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

from fastgen.solvers import names
from sitegen import closed_forms
from sitegen.svg import COLOURS, Line, Panel, draw

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
BUDGETS = (4, 5, 6, 8, 10, 15, 20, 50)
PANELS = {"Gaussian mixture, d = 64": "mixture, d = 64", "Digits, d = 64": "digits, d = 64"}
GRIDS = {"karras": "#0b5fa5", "log_snr": "#b3470b", "uniform": "#1b7f4b"}
GREY = "#b4b9c2"
ACROSS = "network evaluations"
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
        what = "the sliced Wasserstein distance to exact samples; dashed, that of two exact sets"
    return (
        f"Up: {what}. The denoisers are exact, so that the error is the solver's. Colours are time "
        "grids; grey is the best of all solvers of this kind on the grid ``log_snr``. Medians "
        "over three seeds, from the `kept rows <../benchmarks.html#quality>`__."
    )


def _panel(title: str, problem: str, solver: str, metric: str) -> Panel:
    reference = best(f"{problem}, log_snr", metric)
    lines = [Line("best of all on log_snr", reference, GREY, 3, dots=False)]
    for grid, colour in GRIDS.items():
        points = curve(f"{problem}, {grid}", solver, metric)
        if points:
            lines.append(Line(grid, points, colour))
    floor = kept().get((f"{problem}, log_snr", solver, metric), {}).get("floor")
    if floor:
        ends = [(BUDGETS[0], float(floor)), (BUDGETS[-1], float(floor))]
        lines.append(Line("two exact sets", ends, "#000000", 1.2, dots=False, dashes="3 3"))
    return Panel(title, ACROSS, {"rms": "distance", "sliced_w2": "sliced W2"}[metric], lines)


def _measured(title: str, curves: list[tuple[str, Curve]], up: str) -> Panel:
    lines = []
    for (name, points), colour in zip(curves, COLOURS, strict=False):
        exact = "exact" in name
        lines.append(Line(name, points, colour, dots=not exact, dashes="3 3" if exact else ""))
    return Panel(title, ACROSS, up, lines)


def panels(solver: str) -> list[Panel]:
    """What the figure of a solver shows; "adaptive": those with error control."""
    if solver == "adaptive":
        return [_measured("Gaussian mixture, d = 2", closed_forms.adaptive(), "distance")]
    if not is_kept(solver):
        return [_measured(solver, closed_forms.MEASURES[solver](), "Wasserstein distance")]
    metric = metric_of(solver)
    return [_panel(title, problem, solver, metric) for title, problem in PANELS.items()]


def draw_all(folder: Path) -> None:
    """Draw what is older than the rows and than this code."""
    folder.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).parent
    sources = [here / f"{n}.py" for n in ("solver_charts", "closed_forms", "svg")]
    newest = max(p.stat().st_mtime for p in (*sources, RESULTS / "cpu-quality.csv"))
    for name in (*names(), "adaptive"):
        path = folder / f"{name}.svg"
        if not path.exists() or path.stat().st_mtime < newest:
            draw(path, panels(name))
