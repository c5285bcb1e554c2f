"""Rows as tables: timings side by side, solvers ranked over budgets of evaluations."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from benchmarks.tools.rows import Row

BUDGET = re.compile(r"(.*), NFE (\d+)$")
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
            if provider not in found:
                line.append("")
                continue
            row = found[provider]
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


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """The table in Markdown."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
