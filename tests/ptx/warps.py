"""Instructions that the lanes of a warp, or the threads of a block, take together."""

import numpy as np

from tests.ptx.movement import address
from tests.ptx.values import DTYPES

WARPS = {}  # as `movement.MOVEMENT`
LANE = np.arange(32)
WORD = DTYPES["u32"]


def _barrier(machine, operands):
    machine.whole(machine.program.threads, "bar.sync")


def _shuffle(kind):
    """Each lane takes what the lane that `kind` says holds; outside of the segment its own."""

    def function(machine, operands):
        machine.whole(32, "shfl.sync")
        target, source, by, clamp, _ = operands
        by, clamp = machine.get(by, "u32").astype("i8"), int(clamp, 0)
        lane = machine.places % 32
        mask = clamp >> 8 & 31
        end = (lane & mask) | (clamp & 31 & ~mask)
        if kind == "up":
            other, inside = lane - by, lane - by >= end
        else:
            other = {"bfly": lane ^ by, "down": lane + by, "idx": lane & mask | by & ~mask & 31}[
                kind
            ]
            inside = other <= end
        values = machine.spread(machine.get(source, "u32")).reshape(-1, 32)
        chosen = np.where(inside, other, lane).reshape(-1, 32)
        machine.put(target, np.take_along_axis(values, chosen, 1).reshape(-1))

    return function


def _rows(machine, operand):
    """Shared memory as words, and where the 16-byte row that each lane names begins, [warp, 32]."""
    machine.whole(32, "matrices")
    at = address(machine, operand, "u32")
    memory, places = machine.shared.places(at, machine.blocks, WORD, 4)
    return memory, places.reshape(-1, 32)


def _load_matrices(machine, operands):
    """Lane i of matrix m gets word i % 4 of the row that lane 8 m + i / 4 names."""
    registers, source = operands
    memory, rows = _rows(machine, source)
    for m, register in enumerate(registers):
        machine.put(register, memory[rows[:, 8 * m + LANE // 4] + LANE % 4].reshape(-1))


def _store_matrices(machine, operands):
    target, registers = operands
    memory, rows = _rows(machine, target)
    for m, register in enumerate(registers):
        values = machine.spread(machine.get(register, "u32")).reshape(-1, 32)
        memory[rows[:, 8 * m + LANE // 4] + LANE % 4] = values


def _multiply(machine, operands):
    """D = A B + C, 16 x 8 x 8: operands cut to TF32, summed in float64 and rounded once."""
    machine.whole(32, "mma.sync")

    def parts(registers):  # [warp, group of four lanes, lane in it]
        return [machine.spread(machine.get(r, "f32")).reshape(-1, 8, 4) for r in registers]

    def cut(x):
        return (np.ascontiguousarray(x).view("u4") & np.uint32(0xFFFFE000)).view("f4").astype("f8")

    a, b, c = (parts(registers) for registers in operands[1:])
    a, b = [cut(x) for x in a], [cut(x) for x in b]
    left = np.concatenate([np.concatenate([a[0], a[2]], 2), np.concatenate([a[1], a[3]], 2)], 1)
    right = np.concatenate(b, 2).transpose(0, 2, 1)
    product = left @ right
    for i, register in enumerate(operands[0]):
        own = product[:, 8 * (i // 2) : 8 * (i // 2) + 8, i % 2 :: 2]
        machine.put(register, (own + c[i]).astype("f4").reshape(-1))


WARPS["bar.sync"] = _barrier
for kind in ("bfly", "up", "down", "idx"):
    WARPS[f"shfl.sync.{kind}.b32"] = _shuffle(kind)
for n in (1, 2, 4):
    WARPS[f"ldmatrix.sync.aligned.m8n8.x{n}.shared.b16"] = _load_matrices
    WARPS[f"stmatrix.sync.aligned.m8n8.x{n}.shared.b16"] = _store_matrices
WARPS["mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"] = _multiply
