"""Figures and one HTML page, all in itself, from the rows of a run."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.tools.rows import Row
from benchmarks.tools.tables import budgets, mean_rank, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.15rem .6rem;text-align:right}
th{border-bottom:1px solid #888}td:first-child,th:first-child{text-align:left}
tr:nth-child(even){background:#f4f4f4}.lost{color:#b00020}img{max-width:100%}
"""


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
