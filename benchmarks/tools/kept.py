"""The rows that the repository keeps, a file for each suite: what the pages are written from.

`python -m benchmarks SUITE --keep` ends with `keep`, so that a new run's rows take the place of
those of the same case, provider and shape; the others stay, with the date and commit they have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.tools import condensed, rows
from benchmarks.tools.rows import Row

FOLDER = Path(__file__).parent.parent / "results"
# Suites whose rows are many, each of a problem at a budget.
CONDENSED = ("quality",)


def path_of(suite: str, folder: Path = FOLDER) -> Path:
    """The file of a suite's rows."""
    return folder / f"cpu-{suite.replace('_', '-')}.csv"


def read_file(path: Path) -> list[Row]:
    """The rows of a file in either form."""
    return condensed.read(path) if condensed.runs_of(path).exists() else rows.read(path)


def read(suite: str, folder: Path = FOLDER) -> list[Row]:
    """A suite's rows; none if nothing is kept."""
    path = path_of(suite, folder)
    return read_file(path) if path.exists() else []


def suites(folder: Path = FOLDER) -> Iterator[str]:
    """Those of which rows are kept, by name."""
    for path in sorted(folder.glob("cpu-*.csv")):
        if not path.stem.endswith("-runs"):
            yield path.stem.removeprefix("cpu-").replace("-", "_")


def keep(new: Sequence[Row], folder: Path = FOLDER) -> list[Path]:
    """Put rows of a whole run in the place of the kept ones of the same key; the files written."""
    written = []
    for suite in dict.fromkeys(row.suite for row in new):
        found = {row.key: row for row in read(suite, folder)}
        found |= {row.key: row for row in new if row.suite == suite}
        write = condensed.write if suite in CONDENSED else rows.write
        write(list(found.values()), path_of(suite, folder))
        written.append(path_of(suite, folder))
    return written
