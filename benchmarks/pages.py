"""docs/benchmarks.md from the CSVs in benchmarks/results/: never written by hand."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import Row, read
from benchmarks.report import rankings, tables

FOLDER = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEST = 12
INTRODUCTION = """# Benchmarks

Written by `python -m benchmarks --docs` from `benchmarks/results/*.csv`; run the suites again with
`python -m benchmarks` (`--quick` for a first look, `--list` for what there is). Providers
alternate inside one run and are checked against each other before they are timed; figures are
medians. In brackets: the multiple of the first provider's time, so below 1 x the other is faster.
*floor*: the time that the bytes alone take at the copy bandwidth measured in the same run.
"""


def markdown() -> str:
    """The page."""
    parts = [INTRODUCTION]
    for path in sorted(FOLDER.glob("*.csv")):
        rows = read(path)
        if rows:
            parts.append(section(path.stem, rows))
    return "\n".join(parts)


def section(name: str, rows: list[Row]) -> str:
    """The tables of one file, under the machine, versions and date."""
    first = rows[0]
    versions = ", ".join(sorted({row.version for row in rows if row.version}))
    threads = ", ".join(sorted({str(row.threads) for row in rows}))
    dates = ", ".join(sorted({row.date for row in rows if row.date}))
    commits = sorted({row.commit for row in rows if row.commit})
    several = "commit" if len(commits) == 1 else "rows of the commits"
    at = f"{several} {', '.join(commits)}"
    about = f"{first.device}, threads: {threads}; {versions}; {dates}, {at}."
    blocks = [f"## {name}", "", about, ""]
    ranked = list(rankings(rows))
    for header, lines in ranked:
        blocks += [table(header, lines[:BEST]), ""]
        if len(lines) > BEST:
            blocks += [f"The best {BEST} of {len(lines)}; all are in `results/{name}.csv`.", ""]
    if not ranked:
        for header, lines in tables(rows):
            blocks += [table(header, lines), ""]
    return "\n".join(blocks)


def table(header: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
