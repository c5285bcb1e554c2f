"""The figures of docs/benchmarks.md: SVGs from the kept rows, with a digest of what they show.

Another version of matplotlib draws other bytes from the same rows, so that whether a figure is
current is told by its digest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.tools import kept
from benchmarks.tools.multiples import multiples
from benchmarks.tools.tables import budgets

FOLDER = Path(__file__).parent.parent.parent / "docs" / "figures"
# Solvers that most libraries have; all the others are in the rows.
SHOWN = ("ddim", "heun", "dpmpp_2m", "dpmpp_3m", "unipc", "deis", "ipndm", "stork")
PANELS = (
    ("mixture, d = 2, log_snr", "rms"),
    ("mixture, d = 64, log_snr", "rms"),
    ("mixture, d = 3072, log_snr", "rms"),
    ("digits, d = 64, log_snr", "rms"),
    ("photographs, d = 192, log_snr", "rms"),
    ("digits network, velocity", "frechet"),
)
Series = dict[str, list[tuple[float, float]]]


class Figure(NamedTuple):
    """What a figure shows, how it is drawn, and its size in inches."""

    data: Callable[[], Any]
    draw: Callable[[Any, Any], None]
    size: tuple[float, float]


def all_multiples() -> list[tuple[str, list[float]]]:
    """Every multiple of a peer, by suite and peer."""
    found: dict[str, list[float]] = {}
    for suite in kept.suites():
        for pair in multiples(kept.read(suite)):
            label = f"{suite}: {pair.theirs.provider}"
            found.setdefault(label, []).append(round(pair.value, 3))
    return list(found.items())


def draw_multiples(figure: Any, data: Sequence[tuple[str, list[float]]]) -> None:
    """A line of points for each suite and peer."""
    axes = figure.subplots()
    for place, (_, values) in enumerate(data):
        for won, colour in ((True, "tab:blue"), (False, "tab:red")):
            chosen = [v for v in values if (v >= 1) == won]
            axes.plot(chosen, [place] * len(chosen), "|", color=colour, markersize=9)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(data)), [label for label, _ in data])
    axes.set(xscale="log", xlabel="what the peer takes, as a multiple of what fastgen takes")
    axes.set_xticks([0.3, 1, 3, 10, 30, 100, 300], ["0.3", "1", "3", "10", "30", "100", "300"])
    axes.minorticks_off()
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)


def loop_times() -> list[tuple[str, Series]]:
    """Microseconds per step of every loop at each shape: (shape, provider -> (case, time))."""
    panels: dict[str, Series] = {}
    names: dict[str, int] = {}
    for row in kept.read("loops"):
        place = names.setdefault(row.case, len(names))
        panels.setdefault(row.shape, {}).setdefault(row.provider, []).append((place, row.median))
    return [*panels.items(), ("cases", {name: [] for name in names})]


def draw_loops(figure: Any, data: Sequence[tuple[str, Series]]) -> None:
    """A panel for each shape."""
    *panels, (_, names) = data
    all_axes = figure.subplots(1, len(panels), sharey=True)
    for axes, (shape, series) in zip(all_axes, panels, strict=True):
        for (provider, points), mark in zip(series.items(), "osDv", strict=False):
            places, times = zip(*points, strict=True)
            axes.plot(times, places, mark, label=provider, markersize=5, alpha=0.8)
        axes.set(xscale="log", title=f"({shape.replace('x', ', ')})", xlabel="us per step")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    all_axes[0].set_yticks(range(len(names)), list(names))
    all_axes[0].invert_yaxis()
    labels = all_axes[0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside upper right", ncols=4, fontsize=8)


def coupling_times() -> list[tuple[str, Series]]:
    """Milliseconds over the number of points: costs given, and from two batches to pairs."""
    panels: dict[str, Series] = {}
    for case, title in (("given", "costs given"), ("pairing", "batches to pairs")):
        for plane, where in ((True, "d = 2"), (False, "d > 2")):
            series = panels.setdefault(f"{title}, {where}", {})
            for row in kept.read("couplings"):
                n, d = (int(x) for x in row.shape.split("x"))
                if row.case == case and row.metric == "time" and (d == 2) == plane:
                    series.setdefault(row.provider, []).append((n, row.median / 1000))
    return [(title, {k: sorted(v) for k, v in s.items()}) for title, s in panels.items()]


def draw_couplings(figure: Any, data: Sequence[tuple[str, Series]]) -> None:
    """Four panels; a provider has one colour in all."""
    all_axes = figure.subplots(1, len(data), sharey=True)
    colours: dict[str, str] = {}
    handles = {}
    for axes, (title, series) in zip(all_axes, data, strict=True):
        for provider, points in series.items():
            colour = colours.setdefault(provider, f"C{len(colours)}")
            style = ".-" if title.endswith("d = 2") else "."
            handles[provider] = axes.plot(*zip(*points, strict=True), style, color=colour)[0]
        axes.set(xscale="log", yscale="log", xlabel="points", title=title)
        axes.title.set_fontsize(10)
        axes.set_xticks([128, 512, 2048], ["128", "512", "2048"])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel("ms")
    figure.legend(handles.values(), handles, loc="outside right center", fontsize=8)


def quality_curves() -> list[tuple[str, str, Series]]:
    """Medians over budgets of the solvers that are shown, for each panel."""
    found = budgets(kept.read("quality"))
    panels = []
    for problem, metric in PANELS:
        curves = found[problem, metric]
        shown = {solver: sorted(curves[solver].items()) for solver in SHOWN if solver in curves}
        points: Series = {
            k: [(nfe, row.median) for nfe, row in curve] for k, curve in shown.items()
        }
        panels.append((problem, metric, points))
    return panels


def draw_quality(figure: Any, data: Sequence[tuple[str, str, Series]]) -> None:
    """Six panels."""
    all_axes = figure.subplots(2, 3).flat
    for axes, (problem, metric, curves) in zip(all_axes, data, strict=True):
        for solver, points in curves.items():
            axes.plot(*zip(*points, strict=True), marker=".", linewidth=1, label=solver)
        axes.set_title(f"{problem.removesuffix(', log_snr')}: {metric}", fontsize=9)
        axes.set(xscale="log", yscale="log")
        low, high = axes.get_ylim()
        if high < 30 * low:
            ticks = [t for t in (0.02, 0.05, 0.1, 0.2, 0.5, 1.2, 1.5, 2, 3, 5) if low < t < high]
            axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_xticks([5, 10, 20, 50], ["5", "10", "20", "50"])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.supxlabel("network evaluations", fontsize=9)
    all_axes[0].legend(fontsize=7)


FIGURES = {
    "multiples": Figure(all_multiples, draw_multiples, (8, 5.5)),
    "loops": Figure(loop_times, draw_loops, (9, 4)),
    "couplings": Figure(coupling_times, draw_couplings, (10, 3)),
    "quality": Figure(quality_curves, draw_quality, (9, 5.5)),
}


def digest(name: str) -> str:
    """Of what a figure shows."""
    return hashlib.blake2b(repr(FIGURES[name].data()).encode(), digest_size=8).hexdigest()


def digest_in(path: Path) -> str:
    """Of what a drawn figure shows."""
    match = re.search(r"digest of the rows: (\w+)", path.read_text())
    return match[1] if match else ""


def write(folder: Path = FOLDER) -> list[Path]:
    """Draw all figures; their files."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    # Text stays text, and names inside the file are the same each time.
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "fastgen",
        "font.sans-serif": ["DejaVu Sans"],
    }
    with matplotlib.rc_context(settings):
        for name, figure in FIGURES.items():
            canvas = Canvas(figsize=figure.size, layout="constrained")
            figure.draw(canvas, figure.data())
            about = {"Date": None, "Description": f"digest of the rows: {digest(name)}"}
            written.append(folder / f"{name}.svg")
            canvas.savefig(written[-1], metadata=about)
    return written
