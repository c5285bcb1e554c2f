"""Which solver at which budget: docs/howto/solver.md's tables and figure, and "auto"'s table.

A solver's error on a problem is divided by the least that any solver reached there at that budget;
of several problems the geometric mean is taken. 1 is the best everywhere.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.tools import kept
from benchmarks.tools.rows import Row
from benchmarks.tools.tables import budgets, markdown
from fastgen import solvers

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE, FIGURE = DOCS / "howto" / "solver.md", DOCS / "figures" / "decisions.svg"
AUTOMATIC = DOCS.parent / "fastgen" / "solvers" / "measured.py"
BEGIN, END = "<!-- from the rows: {} -->", "<!-- end of the rows -->"
# With exact denoisers on three grids, and networks trained on the digits on their own grid.
PROBLEMS = ("mixture, d = 2", "mixture, d = 64", "digits, d = 64")
GRIDS = ("log_snr", "karras", "uniform")
BUDGETS = (4, 5, 6, 8, 10, 15, 20, 50)
METRICS = {"rms": "the end point", "sliced_w2": "the distribution"}
# Of data of unit size less is not seen, and one of 500 samples that ends elsewhere makes more.
LEAST = 1e-2
DRAWN = (
    ("euler", "uniform"),
    ("ddim", "karras"),
    ("heun", "karras"),
    ("dpmpp_2m", "karras"),
    ("dpmpp_2m", "log_snr"),
    ("unipc", "uniform"),
    ("dpmpp_3m", "uniform"),
    ("dpm_solver_3m", "karras"),
    ("euler_maruyama", "log_snr"),
)
USUAL = (
    ("unipc", "uniform"),
    ("dpm_solver_3m", "karras"),
    ("dpmpp_2m", "uniform"),
    ("dpmpp_2m", "karras"),
    ("euler", "uniform"),
    ("ddim", "uniform"),
    ("heun", "karras"),
)
MARKS = "osD^v<>PX"
Choice = tuple[str, str]


def _networks(predicts: str) -> tuple[str, str]:
    return f"digits network, {predicts}", f"digits network, {predicts}, guidance 2"


# What "auto" chooses from: of which networks, the problems and the grids.
TABLES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "VELOCITIES": (
        "Rectified: three exact velocities and a network, alone and guided.",
        (*(f"{problem}, rectified" for problem in PROBLEMS), *_networks("velocity")),
        ("uniform",),
    ),
    "NOISES": (
        "CosineVP: a network that predicts noise, alone and guided.", _networks("noise"), GRIDS
    ),
    "VARIANCE_PRESERVING": (
        "LinearVP: three exact denoisers; CosineVP: a network that predicts v, alone and guided.",
        (*PROBLEMS, *_networks("v")),
        GRIDS,
    ),
    "OTHERS": (
        "LinearVP: three exact denoisers, on grids that are even in noise.",
        PROBLEMS,
        ("log_snr", "karras"),
    ),
}  # fmt: skip


class Found(NamedTuple):
    """A solver on a grid, and how many times the least error it makes."""

    choice: Choice
    times: float


def ranked(metric: str, nfe: int, rows: Iterable[Row] | None = None) -> list[Found]:
    """All solvers that were run on all problems at a budget, best first."""
    found = _measured() if rows is None else budgets(list(rows))
    relative: dict[Choice, list[float]] = defaultdict(list)
    for problem in PROBLEMS:
        errors = {
            (solver, grid): max(curve[nfe].median, LEAST)
            for grid in GRIDS
            for solver, curve in found.get((f"{problem}, {grid}", metric), {}).items()
            if nfe in curve
        }
        least = min(errors.values(), default=1.0)
        for choice, error in errors.items():
            relative[choice].append(error / least)
    means = [
        Found(choice, math.exp(sum(map(math.log, values)) / len(values)))
        for choice, values in relative.items()
        if len(values) == len(PROBLEMS)
    ]
    return sorted(means, key=lambda f: (f.times, f.choice))


def of_a_network(prediction: str, nfe: int, rows: Iterable[Row] | None = None) -> list[Found]:
    """The Frechet distances of a network trained on the digits, best first."""
    found = _measured() if rows is None else budgets(list(rows))
    curves = found[f"digits network, {prediction}", "frechet"]
    values = [Found((s, ""), curve[nfe].median) for s, curve in curves.items() if nfe in curve]
    return sorted(values, key=lambda f: (f.times, f.choice))


def all_round(metric: str, wanted: Sequence[int] = (5, 6, 8, 10, 15, 20)) -> list[Found]:
    """Solvers by their mean over budgets, best first."""
    logs: dict[Choice, list[float]] = defaultdict(list)
    for nfe in wanted:
        for choice, times in ranked(metric, nfe):
            logs[choice].append(math.log(times))
    means = [Found(c, math.exp(sum(v) / len(v))) for c, v in logs.items() if len(v) == len(wanted)]
    return sorted(means, key=lambda f: (f.times, f.choice))


def tables() -> dict[str, str]:
    """The tables of the page, by name."""
    exact = [
        [str(nfe)]
        + [
            "; ".join(f"`{s}` {g} {t:.2f}" for (s, g), t in _different(ranked(metric, nfe)))
            for metric in METRICS
        ]
        for nfe in BUDGETS
    ]
    trained = [
        [str(nfe)]
        + [
            "; ".join(f"`{f.choice[0]}` {f.times:.3g}" for f in _different(of_a_network(p, nfe)))
            for p in ("velocity", "v", "noise")
        ]
        for nfe in (5, 10, 20, 50)
    ]
    rounds = [
        [label, "; ".join(f"`{s}` {g} {t:.2f}" for (s, g), t in _different(all_round(m), 4))]
        for m, label in METRICS.items()
    ]
    means = {m: dict(all_round(m)) for m in METRICS}
    usual = [[f"`{s}`", g, *[f"{means[m][s, g]:.2f}" for m in METRICS]] for s, g in USUAL]
    chosen = []
    for nfe in BUDGETS:
        best = [combined(nfe, problems, grids)[0] for _, problems, grids in TABLES.values()]
        chosen.append([str(nfe), *(f"`{c[0]}` {c[1]} ({t:.2f})" for c, t in best)])
    return {
        "auto": markdown(["evaluations", "straight", "noise", "v or data", "other"], chosen),
        "usual": markdown(["solver", "grid", *METRICS.values()], usual),
        "exact": markdown(["evaluations", *METRICS.values()], exact),
        "all": markdown(["what counts", "5 to 20 evaluations, the mean"], rounds),
        "trained": markdown(["evaluations", "velocity", "v", "noise"], trained),
        "device": _device(kept.read("quality")),
    }


def page(text: str) -> str:
    """The page with its tables as the rows have them."""
    for name, table in tables().items():
        begin = BEGIN.format(name)
        before, _, rest = text.partition(begin)
        assert rest, f"{PAGE}: no {begin}"
        text = f"{before}{begin}\n{table}\n{END}{rest.partition(END)[2]}"
    return text


def curves() -> list[tuple[str, list[tuple[str, list[tuple[int, float]]]]]]:
    """For each metric the lines that are drawn."""
    panels = []
    for metric in METRICS:
        by = {nfe: dict(ranked(metric, nfe)) for nfe in BUDGETS}
        lines = [
            (f"{s}, {g}", [(n, round(by[n][s, g], 3)) for n in BUDGETS if (s, g) in by[n]])
            for s, g in DRAWN
        ]
        panels.append((metric, [line for line in lines if line[1]]))
    return panels


def digest() -> str:
    """Of what the figure shows."""
    return hashlib.blake2b(repr(curves()).encode(), digest_size=8).hexdigest()


def draw(path: Path = FIGURE) -> None:
    """Draw the figure."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "fastgen"}
    with matplotlib.rc_context(settings):
        figure: Any = Figure(figsize=(9, 3.8), layout="constrained")
        all_axes = figure.subplots(1, 2)
        names = [f"{s}, {g}" for s, g in DRAWN]
        for axes, (metric, lines) in zip(all_axes, curves(), strict=True):
            for name, points in lines:
                colour = f"C{names.index(name)}"
                mark = MARKS[names.index(name)]
                axes.plot(
                    *zip(*points, strict=True), color=colour, marker=mark, markersize=4, label=name
                )
            axes.set(xscale="log", yscale="log", xlabel="network evaluations")
            axes.set_title(f"{METRICS[metric]} ({metric})", fontsize=10)
            axes.set_xticks(BUDGETS, [str(n) for n in BUDGETS])
            top = 20 if metric == "rms" else 6
            ticks = [t for t in (1, 2, 3, 5, 10, 20) if t <= top]
            axes.set_ylim(0.95, top)
            axes.set_yticks(ticks, [f"{t} x" for t in ticks])
            axes.minorticks_off()
            axes.grid(alpha=0.3)
        all_axes[0].set_ylabel("error, times the least")
        handles: dict[str, Any] = {}
        for axes in all_axes:
            handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        figure.legend(handles.values(), handles, loc="outside right center", fontsize=8)
        about = {"Date": None, "Description": f"digest of the rows: {digest()}"}
        figure.savefig(path, metadata=about)


def combined(nfe: int, problems: Sequence[str], grids: Sequence[str]) -> list[Found]:
    """Of the solvers that "auto" may choose those that were run on all problems, best first.

    They make one evaluation in each step and draw nothing. The mean is over distances to the end.
    """
    single = set(solvers.names(stochastic=False, two_times=False, evaluations=1))
    found = _measured()
    logs: dict[Choice, list[float]] = defaultdict(list)
    for problem in problems:
        errors = {
            (solver, grid): max(curve[nfe].median, LEAST)
            for grid in grids
            for solver, curve in found.get((f"{problem}, {grid}", "rms"), {}).items()
            if nfe in curve and solver in single
        }
        for choice, error in errors.items():
            logs[choice].append(math.log(error / min(errors.values())))
    means = [
        Found(choice, math.exp(sum(values) / len(values)))
        for choice, values in logs.items()
        if len(values) == len(problems)
    ]
    return sorted(means, key=lambda f: (f.times, f.choice))


def automatic() -> str:
    """The module that ``solver="auto"`` reads."""
    lines = [
        '"""What "auto" chooses from. Written by `python -m benchmarks.tools.decisions`."""',
        "",
        "# fmt: off",
        "# Budget: (solver, grid, times the least error there), by the distance to the end.",
        "Measured = dict[int, tuple[str, str, float]]",
    ]
    for name, (about, problems, grids) in TABLES.items():
        lines.extend([f"# {about}", f"{name}: Measured = {{"])
        for nfe in BUDGETS:
            (solver, grid), times = combined(nfe, problems, grids)[0]
            lines.append(f"    {nfe}: ({solver!r}, {grid!r}, {times:.2f}),")
        lines.append("}")
    return "\n".join([*lines, ""])


def write() -> None:
    """Write the page's tables, the figure and the table of ``solver="auto"``."""
    PAGE.write_text(page(PAGE.read_text()))
    draw()
    AUTOMATIC.write_text(automatic())


@cache
def _measured() -> dict[tuple[str, str], dict[str, dict[int, Row]]]:
    """The kept rows: sorting them takes a while, and they are asked for some fifty times."""
    return budgets(kept.read("quality"))


def _different(found: Sequence[Found], count: int = 3) -> list[Found]:
    """The first few, without those that make the same plan under another name."""
    kept_: list[Found] = []
    for f in found:
        if all(abs(f.times - other.times) > 1e-3 * f.times for other in kept_):
            kept_.append(f)
    return kept_[:count]


def _device(rows: Sequence[Row]) -> str:
    measured = [row for row in rows if row.date and row.version.startswith("fastgen")]
    dates = sorted({row.date for row in measured})
    devices = ", ".join(sorted({row.device for row in measured}))
    return f"Measured on {devices}, one thread, {dates[0]} to {dates[-1]}."


if __name__ == "__main__":
    write()
