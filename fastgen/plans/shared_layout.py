"""Programs of different structure as tables for one and the same kernel call.

In a batch whose rows are at different steps of different plans, every row needs the same inputs
and outputs in each call. So a call reads all state buffers and the newest outputs of the network,
and writes all state buffers, and the next network input where that is not one of them. What a
row's stage does not read has the coefficient zero, which hides infinities and NaN. What it keeps
is copied: the coefficient one is exact. Copies are put in the order in which sums add them up, so
every row gets the bits that it would get alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastgen.common.limits import MAX_INPUTS, MAX_NOISES, MAX_OUTPUTS
from fastgen.kernels.combine.contract import table_shape
from fastgen.plans.program import Program, Raw, Stage


@dataclass(frozen=True)
class Layout:
    """Sizes that all rows share.

    slots: state buffers; ages: outputs of how many evaluations a stage reads; branches: outputs of
    an evaluation, with guidance more than one; noises: draws of a stage; evaluations: of the
    longest program; clip: bounds of the clipped data prediction; known: whether a part of the data
    is known, for which every table has a second set of sums; fed: the state buffer at which every
    evaluation is made, or None where the network's input is written apart, as a scaled one is.
    """

    slots: int
    ages: int
    branches: int
    noises: int
    evaluations: int
    clip: tuple[float, float] | None
    known: bool = False
    fed: int | None = None

    @staticmethod
    def of(program: Program) -> Layout:
        """What one program needs.

        Raises:
            ValueError: if one of its stages reads anything but buffers, outputs and draws.
        """
        stages = [(k, s) for k, s in enumerate(program.stages) if s is not None]
        raws = []
        for k, stage in stages:
            for i in stage.inputs:
                if isinstance(i, Raw):
                    raws.append((k - 1 - i.evaluation, i.branch))
                elif not isinstance(i, int):
                    raise ValueError(
                        f"stage {k} reads {type(i).__name__}: noise that depends on the data, or "
                        "follows a Brownian path, is not in tables"
                    )
        places = arrangements(program)
        slots = max(map(len, places))
        return Layout(
            slots=slots,
            ages=1 + max((age for age, _ in raws), default=0),
            branches=1 + max((branch for _, branch in raws), default=0),
            noises=max((len(s.normals) for _, s in stages), default=0),
            evaluations=len(program.calls),
            clip=next((s.clip for _, s in stages if s.clip is not None), None),
            known=any(s.known for _, s in stages),
            fed=_fed(program, places, slots),
        )

    def join(self, other: Layout) -> Layout:
        """The smallest layout for both.

        Raises:
            ValueError: if their bounds differ, or a call would exceed the kernel's limits.
        """
        if self.clip is not None and other.clip is not None and self.clip != other.clip:
            raise ValueError(f"clip: {self.clip} and {other.clip} cannot share a batch")
        slots, fed = max(self.slots, other.slots), None
        if self.fed is not None and other.fed is not None:
            fed = max(self.fed, other.fed)
            slots = fed + max(self.slots - self.fed, other.slots - other.fed)
        joined = Layout(
            slots=slots,
            ages=max(self.ages, other.ages),
            branches=max(self.branches, other.branches),
            noises=max(self.noises, other.noises),
            evaluations=max(self.evaluations, other.evaluations),
            clip=self.clip if other.clip is None else other.clip,
            known=self.known or other.known,
            fed=fed,
        )
        inputs, outputs = joined.inputs, joined.outputs
        if inputs > MAX_INPUTS or outputs > MAX_OUTPUTS or joined.noises > MAX_NOISES:
            raise ValueError(
                f"a call for these plans has {inputs} inputs, {outputs} outputs and "
                f"{joined.noises} noises; the kernels take at most {MAX_INPUTS}, {MAX_OUTPUTS} "
                f"and {MAX_NOISES}"
            )
        return joined

    @property
    def inputs(self) -> int:
        """Number of tensors that a call reads."""
        return self.slots + self.ages * self.branches

    @property
    def outputs(self) -> int:
        """Number of tensors that a call writes."""
        return self.slots + (self.fed is None)

    @property
    def table(self) -> tuple[int, int]:
        """Shape of a row's table."""
        clip = self.clip is not None
        return table_shape(self.inputs, self.outputs, clip, self.noises, self.known)


@dataclass(frozen=True)
class Embedded:
    """A program as tables of a layout.

    first: of what is done before the first evaluation; tables [evaluations + 1, ...]: of the call
    after each evaluation, then zeros; draws [evaluations + 1, noises]. The result is in slot 0.
    """

    first: np.ndarray
    first_draws: np.ndarray
    tables: np.ndarray
    draws: np.ndarray


def arrangements(program: Program) -> list[list[int]]:
    """The state buffers that are still needed before stage 0, 1, ... and after the last one.

    Each in the order in which sums add up what is in them.
    """
    live = {program.result}
    needed = [live]
    for k in reversed(range(len(program.stages))):
        stage = program.stages[k]
        outputs = set() if stage is None else set(stage.outputs)
        reads = set() if stage is None else {i for i in stage.inputs if isinstance(i, int)}
        if k < len(program.calls) and not program.network_buffers[program.calls[k].input]:
            reads |= {program.calls[k].input} - outputs
        live = (live - outputs) | reads
        needed.append(live)
    rank = {0: (0, 0, 0)}
    ordered = [[0]]
    for stage, live in zip(program.stages, needed[-2::-1], strict=True):
        if stage is not None:
            rank |= dict(zip(stage.outputs, stage.ranks, strict=True))
        ordered.append(sorted(live, key=lambda buffer: rank[buffer]))
    return ordered


def _fed(program: Program, places: list[list[int]], slots: int) -> int | None:
    """The slot in which all inputs of the network can lie without another slot being there."""
    found = []
    for call, live in zip(program.calls, places[1:], strict=False):
        if program.network_buffers[call.input] or call.input not in live:
            return None
        found.append((live.index(call.input), len(live)))
    fed = max((before for before, _ in found), default=0)
    return fed if all(fed + count - before <= slots for before, count in found) else None


def _placed(program: Program, layout: Layout) -> list[list[int | None]]:
    """The state buffers by slot, before stage 0, 1, ... and after the last; None: nothing there."""
    found: list[list[int | None]] = [list(live) for live in arrangements(program)]
    if layout.fed is not None:
        for call, live in zip(program.calls, found[1:], strict=False):
            live[:0] = [None] * (layout.fed - live.index(call.input))
    return found


def embed(program: Program, layout: Layout) -> Embedded:
    """A program in a layout that is at least its own."""
    places = _placed(program, layout)
    tables = np.zeros((layout.evaluations + 2, *layout.table))
    draws = np.zeros((layout.evaluations + 2, layout.noises), dtype=np.int64)
    for k, stage in enumerate(program.stages):
        apart = layout.fed is None and k < len(program.calls)
        following = [program.calls[k].input] if apart else []
        tables[k] = _table(k, stage, places[k], places[k + 1], following, layout)
        if stage is not None:
            draws[k, : len(stage.normals)] = [n.draw for n in stage.normals]
    return Embedded(tables[0], draws[0], tables[1:], draws[1:])


def _table(
    k: int,
    stage: Stage | None,
    before: list[int | None],
    after: list[int | None],
    following: list[int],
    layout: Layout,
) -> np.ndarray:
    """Stage k's table: before, after: buffers by slot; following: what is evaluated next, apart."""
    clip = layout.clip is not None
    table = np.zeros(layout.table)
    rows, there = {}, {}
    if stage is not None:
        columns = []
        for i in stage.inputs:
            if isinstance(i, Raw):
                age = k - 1 - i.evaluation
                columns.append(layout.slots + age * layout.branches + i.branch)
            else:
                assert isinstance(i, int)
                columns.append(before.index(i))
        own = stage.table
        if stage.clip is not None:
            table[0, columns] = own[0, : len(columns)]
            columns.append(layout.inputs)
            own = own[1:]
        columns += [layout.inputs + clip + n for n in range(len(stage.normals))]
        columns += [layout.table[1] - 1] if stage.known else []
        count = len(stage.outputs)
        rows = dict(zip(stage.outputs, own[:count], strict=True))
        there = dict(
            zip(stage.outputs, own[-count:], strict=True)
        )  # the same where nothing is known
    targets = [*enumerate(after), *((layout.slots, buffer) for buffer in following)]
    for sums, first in ((rows, clip), (there, clip + layout.outputs))[: 1 + layout.known]:
        for slot, buffer in targets:
            if buffer is None:
                continue
            if buffer in sums:
                table[first + slot, columns] = sums[buffer]
            else:
                table[first + slot, before.index(buffer)] = 1.0
    return table
