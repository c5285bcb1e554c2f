"""Rows as short tables for a reader: times with units, a peer's multiple in brackets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.tools.multiples import Multiple, cases, is_peer, own
from benchmarks.tools.rows import Row
from benchmarks.tools.tables import Table


def three(value: float) -> str:
    """Three significant digits, without an exponent where the number is of a usual size."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def amount(row: Row) -> str:
    """What a row says, in a unit that keeps the number short."""
    units = {"us": ((1e6, "s"), (1e3, "ms")), "": ((1e6, "million"),)}.get(row.unit, ())
    for size, name in units:
        if row.median >= 0.9995 * size:
            return f"{three(row.median / size)} {name}"
    return f"{three(row.median)} {row.unit}".strip()


def shape(row: Row) -> str:
    """As Python writes it."""
    return f"({', '.join(row.shape.split('x'))})"


def times(value: float) -> str:
    """A multiple, in two digits or as a whole number."""
    digits = 2 if value < 1 else 1 if value < 9.95 else 0
    return f"{value:.{digits}f} x"


def beside(theirs: Row, ours: Row | None) -> str:
    """A figure, with its multiple of fastgen's if it is a peer's; bold where that is less."""
    if ours is None or not is_peer(theirs):
        return amount(theirs)
    multiple = Multiple(ours, theirs).value
    text = f"{amount(theirs)} ({times(multiple)})"
    return f"**{text}**" if multiple < 1 else text


def side_by_side(
    rows: Sequence[Row], title: str, providers: Sequence[str] = (), shapes: bool = True
) -> Table:
    """A line for each case, a column for each provider, in the order of ``providers`` or rows.

    shapes: whether lines name the shape.
    """
    names = providers or list(dict.fromkeys(row.provider for row in rows))
    lines = []
    for found in cases(rows).values():
        first, ours = next(iter(found.values())), own(found)
        cells = [beside(found[name], ours) if name in found else "" for name in names]
        lines.append([f"{first.case}, {shape(first)}" if shapes else first.case, *cells])
    return [title, *names], lines


def by_shape(rows: Sequence[Row], title: str) -> Table:
    """A line for each case, a column for each shape: fastgen's time and the peer's multiple."""
    found: dict[str, dict[str, str]] = {}
    columns: dict[str, None] = {}
    for providers in cases(rows).values():
        ours = own(providers)
        theirs = next((row for row in providers.values() if is_peer(row)), None)
        if ours is not None and theirs is not None:
            columns[shape(ours)] = None
            text = f"{amount(ours)}, {times(Multiple(ours, theirs).value)}"
            found.setdefault(ours.case, {})[shape(ours)] = text
    lines = [[case, *(cells.get(name, "") for name in columns)] for case, cells in found.items()]
    return [title, *columns], lines


def by_fastest(rows: Sequence[Row], title: str) -> Table:
    """A line for each case, a column for each shape: fastgen's time and its fastest peer."""
    found: dict[str, dict[str, str]] = {}
    columns: dict[str, None] = {}
    for providers in cases(rows).values():
        ours = own(providers)
        peers = [row for row in providers.values() if is_peer(row)]
        if ours is None or not peers:
            continue
        columns[shape(ours)] = None
        fastest = min(peers, key=lambda row: row.median)
        multiple = Multiple(ours, fastest).value
        text = f"{amount(ours)}, {fastest.provider} {times(multiple)}"
        found.setdefault(ours.case, {})[shape(ours)] = f"**{text}**" if multiple < 1 else text
    lines = [[case, *(cells.get(name, "") for name in columns)] for case, cells in found.items()]
    return [title, *columns], lines


def chosen(rows: Iterable[Row], *prefixes: str, **values: str) -> list[Row]:
    """Rows whose case begins with one of the prefixes, and whose fields have these values."""
    return [
        row
        for row in rows
        if (not prefixes or row.case.startswith(prefixes))
        and all(getattr(row, name) == value for name, value in values.items())
    ]
