"""Which buffer has which value, as stages follow one another, and which outputs are kept."""

from __future__ import annotations

from collections.abc import Iterable

from fastgen.plans.forms import Computed, Increment, Value
from fastgen.plans.program import Atom, Given, NetworkInput, Raw

PROVIDED = (Raw, Computed, Increment)
# Outputs of the network that are kept at one time: what bounds the time that any plan takes.
_MOST_HELD = 256


class Buffers:
    """Which buffer has which value, as stages follow one another.

    of: the buffer of each value that is there. of_network: of each buffer, whether it has the
    network's dtype; the others have the state's. Buffers of one dtype are never lent to the other.
    """

    def __init__(self, ends: dict[Atom, int]) -> None:
        self._ends = ends
        self.of: dict[Atom, int] = {}
        self.of_network: list[bool] = []
        self._free: dict[bool, list[int]] = {False: [], True: []}
        self._leaving: dict[int, list[Atom]] = {}  # by the stage that frees them
        self._place(Value(0), -1)

    def turn(self, s: int, outputs: Iterable[Atom]) -> tuple[int, ...]:
        """Free what stage s is the last to read, and place its outputs."""
        for atom in self._leaving.pop(s, ()):
            number = self.of.pop(atom)
            self._free[self.of_network[number]].append(number)
        return tuple(self._place(atom, s) for atom in outputs)

    def places(self, reads: Iterable[Atom]) -> tuple[int | Raw | Given, ...]:
        """Inputs of a stage: buffers, and what a run provides."""
        return tuple([a if isinstance(a, PROVIDED) else self.of[a] for a in reads])

    def _place(self, atom: Atom, s: int) -> int:
        kind = isinstance(atom, NetworkInput)
        free = self._free[kind]
        if not free:
            free.append(len(self.of_network))
            self.of_network.append(kind)
        self.of[atom] = free.pop()
        self._leaving.setdefault(max(s + 1, self._ends.get(atom, 0)), []).append(atom)
        return self.of[atom]


def held_outputs(ends: dict[Atom, int], stages: int) -> tuple[frozenset[int], ...]:
    """After each stage, the evaluations whose raw outputs a later one reads."""
    held: list[set[int]] = [set() for _ in range(stages)]
    for atom, end in ends.items():
        if isinstance(atom, Raw):
            for s in range(atom.evaluation + 1, end):
                held[s].add(atom.evaluation)
                if len(held[s]) > _MOST_HELD:
                    raise ValueError(f"stage {s} keeps over {_MOST_HELD} outputs of the network")
    return tuple(map(frozenset, held))
