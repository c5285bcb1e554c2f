"""What changed between two runs, beyond what their own spread explains."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.tools.rows import Row

LEAST = 0.05


def changed(old: Row, new: Row) -> bool:
    """Whether the medians differ by over 5 % and the ranges from p20 to p80 do not overlap."""
    apart = new.p20 > old.p80 or new.p80 < old.p20
    return apart and abs(new.median - old.median) > LEAST * abs(old.median)


def changes(old: Sequence[Row], new: Sequence[Row]) -> str:
    """A line for each row of ``new`` that changed, worst first; rows of one side only are counted.

    Rows are matched by suite, case, provider, dtype, shape and metric. A smaller figure is better
    in every metric that the suites have.
    """
    before = {row.key: row for row in old}
    pairs = [(before[row.key], row) for row in new if row.key in before and row.repeats]
    found = [(b, n) for b, n in pairs if b.repeats and changed(b, n)]
    found.sort(key=lambda pair: pair[0].median / pair[1].median if pair[1].median else 0.0)
    lines = [
        f"{n.median / b.median if b.median else float('inf'):6.2f} x  {n.suite} | {n.case} | "
        f"{n.shape} | {n.provider}: {b.median:.4g} -> {n.median:.4g} {n.unit}"
        for b, n in found
    ]
    alone = len(old) - len(pairs), len(new) - len(pairs)
    devices = {row.device for row in (*old, *new)}
    lines.append(
        f"{len(found)} of {len(pairs)} rows changed beyond noise; {alone[0]} only in the old, "
        f"{alone[1]} only in the new run"
    )
    if len(devices) > 1:
        lines.append(f"measured on different devices: {', '.join(sorted(devices))}")
    return "\n".join(lines)
