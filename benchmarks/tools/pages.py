"""docs/benchmarks.md from the CSVs in benchmarks/results/: never written by hand."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tools import kept, sections
from benchmarks.tools.cells import amount, shape, times
from benchmarks.tools.multiples import multiples
from benchmarks.tools.rows import Row
from benchmarks.tools.sections import Rows
from benchmarks.tools.tables import markdown

PAGE = Path(__file__).parent.parent.parent / "docs" / "benchmarks.md"
WIDTH = 100


def page() -> str:
    """The page."""
    rows = {suite: kept.read(suite) for suite in kept.suites()}
    parts = [
        introduction([row for found in rows.values() for row in found]),
        overview(rows),
        losses(rows),
        sections.loops(rows),
        sections.drop_ins(rows),
        sections.kernels(rows),
        sections.networks(rows),
        sections.equations(rows),
        sections.transport(rows),
        sections.assignment(rows),
        sections.training(rows),
        sections.quality(rows),
        sections.two_dimensional(rows),
        COMMANDS,
    ]
    return wrapped("\n\n".join(parts)) + "\n"


def wrapped(text: str) -> str:
    """Paragraphs of text in lines of 100 characters; all else as it is."""
    blocks = text.split("\n\n")
    for number, block in enumerate(blocks):
        if block[0] not in "#|!*" or block.startswith("**"):
            words = " ".join(block.split())
            blocks[number] = textwrap.fill(
                words, WIDTH, break_long_words=False, break_on_hyphens=False
            )
    return "\n\n".join(blocks)


def introduction(rows: Sequence[Row]) -> str:
    """Device, dates, versions, and how to read the rest."""
    devices = sorted({row.device for row in rows if row.device})
    dates = sorted({row.date for row in rows if row.date})
    versions = sorted({row.version for row in rows if row.version and row.date}, key=str.lower)
    return f"""# Benchmarks

**No GPU has run any of this.** All rows are of one machine: two shared cores of an
{", ".join(devices)}, {dates[0]} to {dates[-1]}, one thread unless a section says otherwise.
Other work ran there too: compare within a line. Versions:
{", ".join(versions)}.

The providers of a line alternate inside one run. Each is checked against the first before it is
timed, unless results are random. Figures are medians, of 30 rounds as a rule. Where a solver is
timed its network costs nothing: it hands out tensors made beforehand. In brackets is the peer's
multiple of fastgen's time. Below 1 x the peer is faster: such cells are **bold**, and
[all of them](#where-a-peer-is-faster) are listed. Where peers or published figures are better in
quality, [Quality](#quality) and the [2-D tables](#the-2-d-tables-of-the-ot-cfm-papers) show it.

`python -m benchmarks --docs` writes this page and its figures from the rows, and a test compares
them. [How to measure again](#commands)."""


def overview(rows: Rows) -> str:
    """Every multiple in a figure; the files, with the median multiple of each peer."""
    lines = []
    for suite, found in rows.items():
        by: dict[str, list[float]] = {}
        for pair in multiples(found):
            by.setdefault(pair.theirs.provider, []).append(pair.value)
        medians = [f"{peer} {times(statistics.median(v))}" for peer, v in by.items()]
        values = [value for several in by.values() for value in several]
        lost = sum(value < 1 for value in values)
        path = kept.path_of(suite)
        dates = sorted({row.date for row in found if row.date})
        commits = sorted({row.commit for row in found if row.commit})
        lines.append([
            f"[{suite}](../benchmarks/results/{path.name})",
            ", ".join(medians),
            f"{lost} of {len(values)}" if values else "",
            f"{len(found):,}",
            f"{', '.join(dates)}: {', '.join(commits)}",
        ])  # fmt: skip
    header = ["suite and its rows", "median multiple of each peer", "peer less in", "rows",
              "date: commit (+ with changes)"]  # fmt: skip
    return f"""## All multiples

A stroke is one case: what the peer takes, divided by what fastgen takes. It is time, but memory in
`memory` and evaluations in a part of `ode`. Red: the peer takes less.

![Multiples of all cases](figures/multiples.svg)

{markdown(header, lines)}"""


def losses(rows: Rows) -> str:
    """All rows in which a peer takes less."""
    lost = [pair for found in rows.values() for pair in multiples(found) if pair.value < 1]
    lines = [
        [p.ours.suite, f"{p.ours.case}, {shape(p.ours)}", p.theirs.provider, amount(p.theirs),
         amount(p.ours), times(p.value)]
        for p in sorted(lost, key=lambda pair: pair.value)
    ]  # fmt: skip
    header = ["suite", "case", "peer", "peer takes", "fastgen takes", "multiple"]
    return f"""## Where a peer is faster

{markdown(header, lines)}"""


COMMANDS = """## Commands

* `python -m benchmarks [suite ...]` writes rows and a report to `out/benchmarks/`. `--list` says
  what each suite measures, `--quick` takes minutes, `--resume` goes on where a run stopped,
  `--compare benchmarks/results/cpu-loops.csv` prints what changed, `--keep` puts the rows of a
  whole run into `benchmarks/results/`, `--report --keep` those of an earlier one.
* `quality` makes 4 MB of rows, in hours (give it `--out`); kept are medians over seeds and standard
  errors. `python -m benchmarks.suites.two_dimensional` trains the 2-D networks, in hours, and
  `bash benchmarks/gpu.sh` measures on a machine with one GPU."""
