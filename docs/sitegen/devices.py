"""The table of devices: which suites have rows of which machine."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
HEADERS = ("device", "suite", "rows", "threads", "dtypes", "versions", "dates", "commits")


def rows() -> list[tuple[str, ...]]:
    """A row for every device and suite."""
    found: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for path in sorted(RESULTS.glob("*.csv")):
        with path.open() as file:
            for row in csv.DictReader(file):
                if row.get("device"):
                    found[row["device"], row["suite"]].append(row)
    table = []
    for (device, suite), kept in sorted(found.items()):
        cells = [device, suite, f"{_count(kept):,}"]
        for column in ("threads", "dtype", "version", "date", "commit"):
            values = sorted({row[column] for row in kept if row.get(column)})
            cells.append(", ".join(values))
        table.append(tuple(cells))
    return table


def _count(kept: list[dict[str, str]]) -> int:
    """Rows of a suite; those of quality are in a file of their own, a line for each metric."""
    if "run" not in kept[0]:
        return len(kept)
    runs = {row["run"] for row in kept}
    with (RESULTS / "cpu-quality.csv").open() as file:
        return sum(row["run"] in runs for row in csv.DictReader(file))


def write(app: Sphinx) -> None:
    """Write the table that docs/devices.md includes."""
    lines = [".. list-table::", "   :header-rows: 1", "   :class: sortable", ""]
    for cells in (HEADERS, *rows()):
        for i, cell in enumerate(cells):
            lines.append(f"   {'* -' if i == 0 else '  -'} {cell}".rstrip())
    path = Path(app.srcdir) / "figures" / "drawn" / "devices.inc"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join([*lines, ""])
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the hook."""
    app.connect("builder-inited", write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
