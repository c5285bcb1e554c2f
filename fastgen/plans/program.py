"""A lowered plan: stages between network evaluations, and what they read and write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from fastgen.common.display import displayed
from fastgen.plans.forms import Computed, Increment, Normal, Prediction, Value


@dataclass(frozen=True)
class Raw:
    """One output of the network at one evaluation, as the network returned it.

    branch: 0 is the network's own, further ones those of guidance, or the second of a pair.
    """

    evaluation: int
    branch: int = 0

    def __hash__(self) -> int:
        return 4 * (2 * self.evaluation + self.branch) + 3


@dataclass(frozen=True)
class Clipped:
    """The clipped data prediction of the stage's own evaluation."""


@dataclass(frozen=True)
class KnownData:
    """The data where they are known, which are every evaluation's prediction there."""


@dataclass(frozen=True)
class NetworkInput:
    """The state scaled by c_in and cast to the network's dtype, for one evaluation."""

    evaluation: int


Given: TypeAlias = Computed | Increment  # tensors of the state's dtype that a run provides
Atom: TypeAlias = Value | Prediction | Normal | Given | Raw | Clipped | KnownData | NetworkInput
Terms: TypeAlias = dict[Atom, float]
CLIPPED, KNOWN = Clipped(), KnownData()


@displayed
@dataclass(frozen=True)
class Stage:
    """One kernel call; ``table``, ``clip`` as in `fastgen.kernels.combine`.

    inputs: buffer numbers, raw network outputs, or tensors that the run provides; outputs: buffer
    numbers; ranks: the order in which later stages add these up; normals: the noises of the table's
    last columns; known: whether what is known of the data makes a difference, so that the table has
    rows and a column for it.
    """

    inputs: tuple[int | Raw | Given, ...]
    outputs: tuple[int, ...]
    table: np.ndarray
    clip: tuple[float, float] | None
    normals: tuple[Normal, ...]
    ranks: tuple[tuple[int, int, int], ...]
    known: bool = False


@dataclass(frozen=True)
class Call:
    """One network evaluation: the buffers of its input and of its state, and its time.

    state is that of the same point before scaling and casting, where something that is not
    linear needs it.
    """

    input: int
    time: float
    state: int | None = None


@displayed
@dataclass(frozen=True)
class Program:
    """The lowered plan, run as stages[0], calls[0], stages[1], calls[1], ..., stages[nfe].

    A stage is None where nothing is to be done. network_buffers: for each buffer, whether it has
    the network's dtype (the others have the state's); buffer 0 holds the initial state. states:
    (stage, buffer) of each observed state. held: after each stage, the evaluations whose raw
    outputs later stages read. resumed: for each observed state what its stage has written beside
    it that depends on it, computed again from the state as it then is; None where nothing has.
    read: for each observed state, whether anything that follows depends on it.
    """

    stages: tuple[Stage | None, ...]
    calls: tuple[Call, ...]
    network_buffers: tuple[bool, ...]
    result: int
    states: tuple[tuple[int, int], ...]
    held: tuple[frozenset[int], ...]
    resumed: tuple[Stage | None, ...] = ()
    read: tuple[bool, ...] = ()

    def _facts(self) -> dict[str, object]:
        kernels = sum(stage is not None for stage in self.stages)
        facts = {"evaluations": len(self.calls), "kernel_calls": kernels}
        return {**facts, "buffers": len(self.network_buffers), "states": len(self.states)}

    @property
    def kernel_calls(self) -> tuple[Stage | None, ...]:
        """The stages, and after them those that go on from a state that was written to."""
        return self.stages + self.resumed

    def bytes_per_element(self, state_bytes: int, network_bytes: int) -> int:
        """Bytes that all stages together read and write per element of the state.

        Of what is known those of data and mask of each sample; what all share stays in caches.
        """

        def size(slot: int | Raw | Given) -> int:
            if isinstance(slot, int):
                return network_bytes if self.network_buffers[slot] else state_bytes
            return network_bytes if isinstance(slot, Raw) else state_bytes

        stages = [s for s in self.stages if s]
        moved = sum(size(slot) for s in stages for slot in (*s.inputs, *s.outputs))
        return moved + (state_bytes + 1) * sum(s.known for s in stages)

    def signature(self) -> tuple[object, ...]:
        """All but the numbers: programs of one signature can share buffers and captured graphs.

        Bounds of the clip and what computed inputs depend on are built into calls, so they count.
        """
        stages = [
            None
            if s is None
            else (
                *("increment" if isinstance(i, Increment) else i for i in s.inputs),
                s.outputs,
                s.table.shape,
                s.clip,
                s.known,
            )
            for s in self.stages
        ]
        calls = [(c.input, c.state) for c in self.calls]
        return tuple(stages), tuple(calls), self.network_buffers, self.result, self.held


def order(atom: Atom) -> tuple[int, int, int]:
    """The place of a term in a sum. It must not depend on what else is computed, nor on buffers."""
    if isinstance(atom, Value):
        return 0, atom.index, 0
    if isinstance(atom, Prediction):
        return 1, -atom.evaluation, 0
    if isinstance(atom, Raw):
        return 2, -atom.evaluation, atom.branch
    if isinstance(atom, Computed | Increment):
        return 3, atom.draw, 0
    assert isinstance(atom, NetworkInput)
    return 4, atom.evaluation, 0
