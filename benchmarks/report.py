"""Figures and one HTML page, all in itself, from the rows of a run."""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.15rem .6rem;text-align:right}
th{border-bottom:1px solid #888}td:first-child,th:first-child{text-align:left}
tr:nth-child(even){background:#f4f4f4}.lost{color:#b00020}img{max-width:100%}
"""
BUDGET = re.compile(r"(.*), NFE (\d+)$")


def write(rows: Sequence[Row], folder: Path) -> Path:
    """Write report.html and a PNG for each figure into ``folder``; returns the page's path."""
    sections = []
    for suite in dict.fromkeys(row.suite for row in rows):
        chosen = [row for row in rows if row.suite == suite]
        sections.append(f"<h2>{html.escape(suite)}</h2>")
        for name, figure in figures(suite, chosen):
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
            (folder / f"{name}.png").write_bytes(buffer.getvalue())
            encoded = base64.b64encode(buffer.getvalue()).decode()
            sections.append(f'<img alt="{name}" src="data:image/png;base64,{encoded}">')
        sections.extend(html_table(header, lines) for header, lines in tables(chosen))
    devices = sorted({f"{r.device}, {r.threads} threads" for r in rows})
    about = f"{', '.join(devices)}; {', '.join(sorted({r.version for r in rows if r.version}))}; "
    about += f"{', '.join(sorted({r.date for r in rows}))}; commit {rows[0].commit if rows else ''}"
    page = folder / "report.html"
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><title>fastgen benchmarks</title>'
        f"<style>{STYLE}</style><h1>fastgen benchmarks</h1><p>{html.escape(about)}</p>"
        + "\n".join(sections)
    )
    return page


Table = tuple[list[str], list[list[str]]]


def tables(rows: Sequence[Row]) -> Iterable[Table]:
    """Timings: a line per case with a column per provider; qualities: a ranking of solvers."""
    timed = [row for row in rows if not BUDGET.match(row.case)]
    for metric in dict.fromkeys(row.metric for row in timed if row.repeats):
        yield timings([row for row in timed if row.metric == metric], metric)
    left_out = [row for row in rows if not row.repeats]
    if left_out:
        header = ["left out", "shape", "provider", "why"]
        yield header, [[r.case, r.shape, r.provider, r.note] for r in left_out]
    yield from rankings(rows)


def timings(rows: Sequence[Row], metric: str) -> Table:
    """Medians with the ratio to the first provider; the floor is the least the memory allows."""
    providers = list(dict.fromkeys(row.provider for row in rows))
    cases: dict[tuple[str, str, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        cases[row.case, row.shape, row.dtype][row.provider] = row
    lines = []
    for (case, shape, dtype), found in cases.items():
        first = next(iter(found.values()))
        line = [case, shape, dtype]
        for provider in providers:
            row = found.get(provider)
            if row is None:
                line.append("")
                continue
            ratio = row.median / first.median if first.median else math.nan
            line.append(f"{row.median:.4g}" + ("" if row is first else f" ({ratio:.2f} x)"))
        lines.append([*line, f"{first.floor:.3g}" if first.floor else ""])
    unit = next((row.unit for row in rows), "")
    return [f"{metric} {f'[{unit}]' if unit else ''}", "shape", "dtype", *providers, "floor"], lines


def budgets(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, dict[int, Row]]]:
    """(problem, metric) -> provider -> NFE -> row."""
    found: dict[tuple[str, str], dict[str, dict[int, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        match = BUDGET.match(row.case)
        if match and row.repeats:
            found[match[1], row.metric][row.provider][int(match[2])] = row
    return found


def mean_rank(curves: dict[str, dict[int, Row]], nfes: Sequence[int]) -> dict[str, float]:
    """The mean place of every provider over the budgets, best first; absent counts as last."""
    places: dict[str, list[float]] = {provider: [] for provider in curves}
    for nfe in nfes:
        there = sorted((c[nfe].median, p) for p, c in curves.items() if nfe in c)
        order = {p: place for place, (_, p) in enumerate(there, 1)}
        for provider in curves:
            places[provider].append(order.get(provider, len(curves)))
    means = {p: sum(found) / len(found) for p, found in places.items()}
    return dict(sorted(means.items(), key=lambda item: item[1]))


def rankings(rows: Sequence[Row]) -> Iterable[Table]:
    """For every problem the solvers by their mean place over the budgets."""
    for (problem, metric), curves in budgets(rows).items():
        nfes = sorted({nfe for curve in curves.values() for nfe in curve})
        lines = [
            [provider, f"{mean:.1f}"]
            + [f"{curves[provider][n].median:.3g}" if n in curves[provider] else "" for n in nfes]
            for provider, mean in mean_rank(curves, nfes).items()
        ]
        yield [f"{problem}: {metric}", "mean place", *(f"NFE {n}" for n in nfes)], lines


def html_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """An HTML table; figures below 1 x, where the peer is faster, stand out."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = []
    for line in lines:
        cells = [
            f"<td{' class=lost' if lost(cell) else ''}>{html.escape(cell)}</td>" for cell in line
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def lost(cell: str) -> bool:
    """Whether a cell says that a peer needs less than the first provider."""
    match = re.search(r"\(([\d.]+) x\)$", cell)
    return match is not None and float(match[1]) < 1


def figures(suite: str, rows: Sequence[Row]) -> Iterable[tuple[str, Figure]]:
    """A figure per quality problem, or one of the ratios of a timed suite; with their names."""
    if suite == "quality":
        for (problem, metric), curves in budgets(rows).items():
            name = re.sub(r"\W+", "-", f"{suite}-{problem}-{metric}").strip("-")
            yield name, _plot(lambda axes, c=curves, p=problem, m=metric: _curves(axes, c, p, m))
        return
    times = [row for row in rows if row.metric == "time" and row.repeats]
    firsts: dict[tuple[str, str, str], Row] = {}
    ratios = []
    for row in times:
        first = firsts.setdefault((row.case, row.shape, row.dtype), row)
        if row is not first:
            ratios.append((f"{row.case} {row.shape}: {row.provider}", row.median / first.median))
    if ratios:
        yield suite, _plot(lambda axes: _ratios(axes, ratios), height=0.22 * len(ratios) + 1)


def _plot(draw: Callable[..., None], height: float = 4.5) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height))
    draw(figure.subplots())
    return figure


def _ratios(axes: Any, ratios: Sequence[tuple[str, float]]) -> None:
    names, values = zip(*ratios, strict=True)
    colours = ["tab:blue" if v >= 1 else "tab:red" for v in values]
    axes.barh(names, values, color=colours)
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", xlabel="time, as a multiple of the first provider's")
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)


def _curves(
    axes: Any, curves: dict[str, dict[int, Row]], problem: str, metric: str, most: int = 10
) -> None:
    nfes = sorted({nfe for curve in curves.values() for nfe in curve})
    for provider in list(mean_rank(curves, nfes))[:most]:
        points = sorted(curves[provider].items())
        x, y = [n for n, _ in points], [r.median for _, r in points]
        axes.plot(x, y, marker=".", label=provider)
        low, high = [r.p20 for _, r in points], [r.p80 for _, r in points]
        axes.fill_between(x, low, high, alpha=0.15)
    floor = next(iter(next(iter(curves.values())).values())).floor
    if floor:
        axes.axhline(floor, color="black", linestyle=":", label="two exact sets")
    axes.set(xscale="log", yscale="log", xlabel="network evaluations", ylabel=metric, title=problem)
    axes.legend(fontsize=7)
