"""Rows of solvers at several budgets in a small file: a line for each problem, solver and metric.

The suite `quality` writes 22 600 rows in 4 MB, most of which says again which machine, version and
commit a row is of. Here

    NAME.csv        has the medians over seeds and their standard errors, a column for each budget;
                    lines of the metric "evaluations" say how many a solver spent where it spent
                    fewer than its budget;
    NAME-runs.csv   says once of what problem, machine, versions, date and commit a line is.

Nothing is lost but the two quantiles of two or three seeds: p20 and p80 of the rows read here are
those of a normal law with the seeds' standard deviation.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.tools.rows import Row
from benchmarks.tools.tables import BUDGET

RUN = (
    *("suite", "version", "device", "threads", "dtype", "shape", "unit", "repeats"),
    *("date", "commit"),
)
NOTE = re.compile(r"(?:(\d+) evaluations)?(?:; )?(?:s\.e\. (\S+))?")
# 20 per cent of a normal law lie below the mean minus so many standard deviations.
QUINTILE = 0.8416
SPENT, LEFT_OUT = "evaluations", "skipped"


def runs_of(path: Path) -> Path:
    """The file beside it that says what its lines are of."""
    return path.with_name(f"{path.stem}-runs.csv")


def write(rows: Sequence[Row], path: Path) -> None:
    """Write both files.

    Raises:
        ValueError: for a row that is not of a budget, or whose note would be lost.
    """
    # A peer that is absent is so for a whole problem: no row of any budget, so none here.
    rows = [row for row in rows if row.repeats or BUDGET.match(row.case)]
    runs: dict[tuple[str, ...], int] = {}
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    nfes = sorted({int(budget(row)[1]) for row in rows})
    for row in rows:
        problem, nfe = budget(row)
        note = NOTE.fullmatch(row.note)
        if row.repeats and not note:
            raise ValueError(f"{row.case}, {row.provider}: no room for the note {row.note!r}")
        reason = "" if row.repeats else row.note
        about = (problem, *(str(getattr(row, name)) for name in RUN), reason)
        run = str(runs.setdefault(about, len(runs) + 1))
        cells = {f"NFE {nfe}": "" if math.isnan(row.median) else f"{row.median:g}"}
        if row.repeats and note and note[2]:
            cells[f"s.e. {nfe}"] = note[2]
        floor = f"{row.floor:g}" if row.floor else ""
        lines.setdefault((run, row.provider, row.metric, floor), {}).update(cells)
        if row.repeats and note and note[1]:
            lines.setdefault((run, row.provider, SPENT, ""), {})[f"NFE {nfe}"] = note[1]
        if not row.repeats:
            lines[run, row.provider, row.metric, floor][f"NFE {nfe}"] = "-"
    columns = [*(f"NFE {n}" for n in nfes), *(f"s.e. {n}" for n in nfes)]
    # The order in which rows are read again, so that they give the same file.
    solvers = {key[:2]: number for number, key in enumerate(lines)}
    ordered = sorted(lines, key=lambda k: (int(k[0]), solvers[k[:2]], k[2] == SPENT))
    table = ([*key, *(lines[key].get(column, "") for column in columns)] for key in ordered)
    _write(path, ["run", "provider", "metric", "floor", *columns], table)
    _write(runs_of(path), ["run", "problem", *RUN, "reason"],
           ([str(n), *about] for about, n in runs.items()))  # fmt: skip


def budget(row: Row) -> tuple[str, str]:
    """Problem and number of evaluations of a row.

    Raises:
        ValueError: if its case does not name them.
    """
    match = BUDGET.match(row.case)
    if not match:
        raise ValueError(f"{row.case!r} is not a problem at a budget of evaluations")
    return match[1], match[2]


def _write(path: Path, header: list[str], lines: Iterable[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)


def read(path: Path) -> list[Row]:
    """The rows of both files, a solver's budgets in turn."""
    with runs_of(path).open(newline="") as file:
        runs = {line["run"]: line for line in csv.DictReader(file)}
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    spent = {(x["run"], x["provider"]): x for x in lines if x["metric"] == SPENT}
    found = []
    for line in lines:
        if line["metric"] != SPENT:
            counts = spent.get((line["run"], line["provider"]), {})
            found += [
                _row(line, runs[line["run"]], column.removeprefix("NFE "), counts.get(column, ""))
                for column, cell in line.items()
                if column.startswith("NFE ") and cell
            ]
    return found


def _row(line: dict[str, str], run: dict[str, str], nfe: str, spent: str) -> Row:
    skipped, error = line["metric"] == LEFT_OUT, line[f"s.e. {nfe}"]
    median = math.nan if skipped else float(line[f"NFE {nfe}"])
    repeats = int(run["repeats"])
    deviation = QUINTILE * float(error or 0) * math.sqrt(repeats)
    parts = [f"{spent} evaluations" if spent else "", f"s.e. {error}" if error else ""]
    about: dict[str, Any] = {name: run[name] for name in RUN}
    return Row(
        **about | {"threads": int(run["threads"]), "repeats": repeats},
        case=f"{run['problem']}, NFE {nfe}",
        provider=line["provider"],
        metric=line["metric"],
        median=median,
        p20=float(f"{median - deviation:.5g}"),
        p80=float(f"{median + deviation:.5g}"),
        floor=float(line["floor"] or 0),
        note=run["reason"] or "; ".join(part for part in parts if part),
    )
