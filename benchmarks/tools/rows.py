"""The rows that suites write: one line of a CSV each, with device, versions and date.

A suite is a module with ``rows(quick)``, a generator of `Row`. It asks `recorded` before it does
the work of a row, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

import fastgen


@dataclass(frozen=True)
class Row:
    """One line of the CSV; the spread of times is over rounds, that of qualities over seeds."""

    suite: str
    case: str
    provider: str
    version: str
    device: str
    threads: int
    dtype: str
    shape: str
    metric: str
    unit: str
    median: float
    p20: float
    p80: float
    repeats: int
    floor: float
    date: str
    commit: str
    note: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What the row is about, whoever measured it when."""
        return self.suite, self.case, self.provider, self.dtype, self.shape, self.metric


class Journal:
    """The rows of a run, on disk as soon as they are there.

    Args:
        path: the CSV; None keeps the rows in memory only.
        resume: go on with what the file has; otherwise it is begun anew.
        progress: called with (cases done, cases in all) of the suite that runs.
    """

    def __init__(
        self,
        path: Path | None = None,
        resume: bool = False,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.path, self.progress = path, progress
        self.rows: list[Row] = []
        self._done: set[tuple[str, str, str, str]] = set()
        found = read(path) if path is not None and resume and path.exists() else []
        if path is not None:
            write([], path)
        for row in found:
            self.add(row)

    def add(self, row: Row) -> None:
        """Keep a row."""
        self.rows.append(row)
        self._done.add((row.suite, row.case, row.provider, row.shape))
        if self.path is not None:
            with self.path.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(
                    getattr(row, f.name) for f in fields(Row)
                )

    def recorded(self, suite: str, case: str, provider: str, shape: Sequence[int]) -> bool:
        """Whether any row of this is there."""
        return (suite, case, provider, _shape(shape)) in self._done


journal = Journal()


def recorded(suite: str, case: str, provider: str, shape: Sequence[int]) -> bool:
    """Whether the run that goes on here has this already."""
    return journal.recorded(suite, case, provider, shape)


def show_progress(done: int, total: int) -> None:
    """Move the bar of the suite that runs."""
    journal.progress(done, total)


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


@cache
def device_name() -> str:
    """The processor's or the GPU's name."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.split(':')[1].strip()} ({best_isa()})"
    return platform.processor()


def best_isa() -> str:
    """The widest vector instructions torch sees."""
    return torch.backends.cpu.get_cpu_capability()


@cache
def commit() -> str:
    """The commit, with + if the tree is not clean."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=9"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return result.stdout.strip()


@cache
def version_of(package: str) -> str:
    """A distribution's version; fastgen may run from its source without being installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return fastgen.__version__ if package == "fastgen-torch" else "unknown"


def skipped(suite: str, case: str, provider: str, shape: Sequence[int], reason: str) -> Row:
    """The row of a provider that cannot run here: no figure, and why."""
    nothing = float("nan")
    return replace(
        row(suite, case, provider, "fastgen-torch", shape, torch.float32, "skipped", "", [nothing]),
        version="",
        repeats=0,
        note=reason,
    )


def row(
    suite: str,
    case: str,
    provider: str,
    package: str,
    shape: Sequence[int],
    dtype: torch.dtype,
    metric: str,
    unit: str,
    values: Sequence[float],
    *,
    threads: int = 1,
    floor: float = 0.0,
    note: str = "",
) -> Row:
    """A row from all measured values."""
    cuts = statistics.quantiles(values, n=10) if len(values) > 1 else [*values] * 9
    median, p20, p80 = statistics.median(values), cuts[1], cuts[7]
    return Row(
        suite=suite,
        case=case,
        provider=provider,
        version=f"{package} {version_of(package)}",
        device=device_name(),
        threads=threads,
        dtype=str(dtype).removeprefix("torch."),
        shape=_shape(shape),
        metric=metric,
        unit=unit,
        median=float(f"{median:.5g}"),
        p20=float(f"{p20:.5g}"),
        p80=float(f"{p80:.5g}"),
        repeats=len(values),
        floor=float(f"{floor:.5g}"),
        date=datetime.date.today().isoformat(),
        commit=commit(),
        note=note,
    )


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f.name for f in fields(Row)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([getattr(row, name) for name in names] for row in rows)


def read(path: Path) -> list[Row]:
    """The rows of a CSV.

    Raises:
        ValueError: naming the file and line, if it is not a CSV of rows.
    """
    kinds: dict[str, Callable[[str], Any]] = {"threads": int, "repeats": int}
    kinds |= dict.fromkeys(("median", "p20", "p80", "floor"), float)
    found = []
    with path.open(newline="") as file:
        for number, line in enumerate(csv.DictReader(file), 2):
            try:
                found.append(Row(**{k: kinds.get(k, str)(v) for k, v in line.items()}))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: not a row of a benchmark") from error
    return found
