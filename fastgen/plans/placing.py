"""Stages: what they write as sums, and once buffers are known, as tables of coefficients."""

from __future__ import annotations

import numpy as np

from fastgen.common.limits import MAX_INPUTS, MAX_NOISES, MAX_OUTPUTS
from fastgen.plans.forms import Normal
from fastgen.plans.program import (
    CLIPPED,
    KNOWN,
    Atom,
    Clipped,
    Given,
    KnownData,
    Raw,
    Stage,
    Terms,
    order,
)


class Unplaced:
    """A stage before its buffers are known: each output, and the clipped value, as a sum.

    known: the outputs as sums where the data are known; None where these are the same. reads: the
    inputs in the order of the sums: registers, then predictions that are in buffers and raw
    outputs, both from the newest to the oldest.
    """

    def __init__(
        self, outputs: dict[Atom, Terms], clipped: Terms, known: dict[Atom, Terms] | None
    ) -> None:
        self.outputs, self.clipped = outputs, clipped
        self.known = None if known == outputs else known
        self.rows = [*([clipped] if clipped else []), *outputs.values()]
        self.rows += [] if self.known is None else self.known.values()
        atoms = {atom for row in self.rows for atom in row}
        self.normals = sorted(a for a in atoms if isinstance(a, Normal))
        reads = [a for a in atoms if not isinstance(a, (Normal, Clipped, KnownData))]
        self.reads = sorted(reads, key=order)


def placed(
    s: int,
    stage: Unplaced,
    inputs: tuple[int | Raw | Given, ...],
    outputs: tuple[int, ...],
    clip: tuple[float, float] | None,
) -> Stage | None:
    """The stage with its table of coefficients; None where it writes nothing."""
    if not outputs:
        return None
    for what, count, limit in (
        ("inputs", len(inputs), MAX_INPUTS),
        ("outputs", len(outputs), MAX_OUTPUTS),
        ("noises", len(stage.normals), MAX_NOISES),
    ):
        if count > limit:
            raise ValueError(f"stage {s} has {count} {what}, the kernels take at most {limit}")
    if not inputs:
        raise ValueError(f"stage {s} reads no state or prediction, only noise")
    known = stage.known is not None
    columns: list[Atom] = [*stage.reads, *([CLIPPED] if stage.clipped else []), *stage.normals]
    columns += [KNOWN] if known else []
    table = np.array([[row.get(a, 0.0) for a in columns] for row in stage.rows])
    if not np.isfinite(table).all():
        raise ValueError(f"stage {s} has a coefficient that is not finite")
    bounds, ranks = clip if stage.clipped else None, tuple(map(order, stage.outputs))
    return Stage(inputs, outputs, table, bounds, tuple(stage.normals), ranks, known)
