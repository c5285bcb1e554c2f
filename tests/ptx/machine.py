"""All threads of some blocks at once: registers are arrays over lanes, in lockstep at the least pc.

A register has one number while all lanes agree by construction, else one for each lane. Where lanes
part, those that are furthest behind go on until the others are met again.
"""

from functools import cache

import numpy as np

from tests.ptx.instructions import INSTRUCTIONS
from tests.ptx.memory import SharedMemory
from tests.ptx.program import BRANCHES, PtxError
from tests.ptx.values import DTYPES, bits_of, unsigned

DONE = 1 << 30


@cache
def constant(text, kind):
    """An immediate operand."""
    if kind == "pred":
        return np.array([text not in ("0", "false")])
    if text[:2] in ("0f", "0d"):
        bits = np.array([int(text[2:], 16)], "u4" if text[1] == "f" else "u8")
    else:
        bits = np.array(
            [int(text.rstrip("U"), 0) & ((1 << bits_of(kind)) - 1)], f"u{DTYPES[kind].itemsize}"
        )
    return bits.view(DTYPES[kind])


class Machine:
    """Blocks `first`, ... of a grid that run one program.

    Attributes:
        lanes: number of threads.
        active: indices of those that take part in the present instruction; None for all.
    """

    def __init__(self, program, grid, first, blocks, arguments, shared, memory):
        self.program, self.arguments, self.memory = program, arguments, memory
        threads = program.threads
        self.lanes = blocks * threads
        lane = np.arange(self.lanes, dtype="u4")
        self._block = (lane // threads).astype("i8")
        block = self._block + first
        self._special = {
            "%tid.x": lane % threads,
            "%laneid": lane % 32,
            "%warpid": lane % threads // 32,
            "%ctaid.x": (block % grid[0]).astype("u4"),
            "%ctaid.y": (block // grid[0] % grid[1]).astype("u4"),
            "%ctaid.z": (block // (grid[0] * grid[1])).astype("u4"),
            "%ntid.x": np.array([threads], "u4"),
        }
        self._special |= {"%tid.y": np.zeros(1, "u4"), "%tid.z": np.zeros(1, "u4")}
        self._special |= {
            f"%nctaid.{axis}": np.array([n], "u4") for axis, n in zip("xyz", grid, strict=True)
        }
        self.shared = SharedMemory(blocks, shared)
        self._registers = {}
        self.active = None

    def get(self, operand, kind):
        """An operand's values for the active lanes: one, or one for each."""
        values = self._registers.get(operand)
        if values is None:
            values = self._special.get(operand)
        if values is None:
            if operand[0] == "%" or operand in self.program.widths:
                raise PtxError(f"{operand} is read before it is written")
            return constant("0" if operand == "global_smem" else operand, kind)
        if self.active is not None and values.size > 1:
            values = values[self.active]
        if kind == "pred":
            return values
        dtype = DTYPES[kind]
        if values.dtype.itemsize < dtype.itemsize:
            raise PtxError(f"{operand} is too narrow for {kind}")
        if values.dtype.itemsize > dtype.itemsize:
            values = values.astype(f"u{dtype.itemsize}")
        return values.view(dtype)

    def put(self, register, values):
        """Write a register of the active lanes; narrower values are extended by their sign."""
        if register == "_":
            return
        width = self._width(register)
        if values.dtype != bool:
            if values.dtype.itemsize * 8 > width:
                raise PtxError(f"{register} is too narrow for {values.dtype}")
            if values.dtype.itemsize * 8 < width:
                values = values.astype(f"{values.dtype.kind}{width // 8}")
            values = unsigned(values)
        elif width != 1:
            raise PtxError(f"{register} is given a predicate")
        if self.active is not None:
            old = self._registers.get(register)
            new = np.zeros(self.lanes, values.dtype)
            if old is not None:
                new[:] = old
            new[self.active] = values
            values = new
        self._registers[register] = values

    def _width(self, register):
        widths = self.program.widths
        return widths.get(register) or widths[register.rstrip("0123456789")]

    def spread(self, values):
        """One value for each active lane."""
        return np.broadcast_to(values, (self.count,)) if values.size == 1 else values

    @property
    def count(self):
        """Number of active lanes."""
        return self.lanes if self.active is None else self.active.size

    @property
    def places(self):
        """Indices of the active lanes."""
        return np.arange(self.lanes) if self.active is None else self.active

    @property
    def blocks(self):
        """Of each active lane, the number of its block among those of this machine."""
        return self._block if self.active is None else self._block[self.active]

    def whole(self, size, what):
        """Refuse a step that all lanes of a warp (or block) take together, taken by a part."""
        if self.active is None:
            return
        groups = self.active // size
        if (np.bincount(groups)[np.unique(groups)] != size).any():
            raise PtxError(f"{what}: only some of {size} lanes take part")

    def run(self):
        """Until every lane has returned."""
        with np.errstate(all="ignore"):
            self._run()

    def _run(self):
        steps, labels = self.program.steps, self.program.labels
        pc, counters = 0, None  # one counter, or one for each lane
        while True:
            if counters is not None:
                pc = int(counters.min())
                if pc == DONE:
                    return
                at = np.flatnonzero(counters == pc)
                if at.size == self.lanes:
                    counters, self.active = None, None
                else:
                    self.active = at
            predicate, negated, name, operands = step = steps[pc]
            taken = True
            if predicate is not None:
                taken = self.get(predicate, "pred") ^ negated
                all_taken = bool(taken.all())
                taken = all_taken if all_taken or not taken.any() else self.spread(taken)
            if name in BRANCHES:
                target = labels[operands[0]] if name.startswith("bra") else DONE
                goes_on = np.where(taken, target, pc + 1)
                if counters is None and goes_on.ndim == 0:
                    pc = int(goes_on)
                    if pc == DONE:
                        return
                    continue
                if counters is None:
                    counters = np.full(self.lanes, pc)
                counters[self.places] = goes_on
                continue
            if taken is not False:
                self._perform(step, taken)
            if counters is None:
                pc += 1
            else:
                counters[self.places] = pc + 1

    def _perform(self, step, taken):
        before = self.active
        if taken is not True:
            self.active = self.places[taken]
        try:
            INSTRUCTIONS[step.name](self, step.operands)
        except RuntimeError as error:
            shown = f"{step.name} {step.operands}".replace("'", "")
            raise type(error)(f"{self.program.name}: {error}; in {shown}") from error
        self.active = before


LANES = 1 << 15  # at a time: registers of that many stay in a core's cache


def execute(program, grid, arguments, shared, memory, lanes=LANES):
    """Run a grid, some blocks at a time (blocks may not wait for each other)."""
    blocks = grid[0] * grid[1] * grid[2]
    at_once = max(1, lanes // program.threads)
    for first in range(0, blocks, at_once):
        count = min(at_once, blocks - first)
        Machine(program, grid, first, count, arguments, shared, memory).run()
