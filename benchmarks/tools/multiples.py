"""What the peers take as multiples of what fastgen takes, and where they take less."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.tools.rows import Row

# What is less in a better row.
SPENT = ("time", "step", "peak", "rows")
# Rows of a part of the work, under which no provider can come.
BOUNDS = ("network alone", "product alone", "one normal field", "independent pairs")
# The row of fastgen that peers are held against, where none is named "fastgen".
OWN = ("fastgen", "exact OT")


class Multiple(NamedTuple):
    """A peer's row beside fastgen's of the same case."""

    ours: Row
    theirs: Row

    @property
    def value(self) -> float:
        """Above 1 where fastgen needs less."""
        return self.theirs.median / self.ours.median


def cases(rows: Sequence[Row]) -> dict[tuple[str, ...], dict[str, Row]]:
    """The rows of what is spent, by case and then by provider."""
    found: dict[tuple[str, ...], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        if row.repeats and row.metric in SPENT:
            found[row.case, row.shape, row.dtype, row.metric][row.provider] = row
    return found


def own(providers: dict[str, Row]) -> Row | None:
    """fastgen's row of a case."""
    return next((providers[name] for name in OWN if name in providers), None)


def is_peer(row: Row) -> bool:
    """Whether a row is another library's way to the same result."""
    return not row.version.startswith("fastgen-torch") and row.provider not in BOUNDS


def multiples(rows: Sequence[Row]) -> Iterator[Multiple]:
    """Every peer's row that has fastgen's beside it."""
    for providers in cases(rows).values():
        ours = own(providers)
        for theirs in providers.values():
            if ours is not None and is_peer(theirs):
                yield Multiple(ours, theirs)
