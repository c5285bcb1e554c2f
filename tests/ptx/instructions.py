"""Every instruction that the machine knows, by its full name."""

import numpy as np

from tests.ptx.floats import FLOATS
from tests.ptx.integers import INTEGERS
from tests.ptx.movement import MOVEMENT
from tests.ptx.values import DTYPES, unsigned
from tests.ptx.warps import WARPS


def _lane_by_lane(kinds, compute):
    def function(machine, operands):
        sources = [machine.get(o, kind) for o, kind in zip(operands[1:], kinds, strict=True)]
        machine.put(operands[0], compute(*sources))

    return function


def _in_halves(kinds, compute):
    """On two 16-bit numbers in 32 bits; of predicates the lower ones' comes first."""

    def function(machine, operands):
        words = [machine.get(o, "u32") for o in operands[1:]]
        low, high = (
            compute(
                *(
                    (w >> np.uint32(shift)).astype("u2").view(DTYPES[kind])
                    for w, kind in zip(words, kinds, strict=True)
                )
            )
            for shift in (0, 16)
        )
        if low.dtype == bool:
            for register, values in zip(operands[0].split("|"), (low, high), strict=True):
                machine.put(register, values)
        else:
            both = unsigned(low).astype("u4"), unsigned(high).astype("u4")
            machine.put(operands[0], both[0] | both[1] << np.uint32(16))

    return function


PACKED = {
    f"{name}x2": _in_halves(*entry)
    for name, entry in FLOATS.items()
    if name.endswith("f16") and not name.startswith("cvt")
}

# {name: function of a machine and the instruction's operands}
INSTRUCTIONS = {name: _lane_by_lane(*entry) for name, entry in (INTEGERS | FLOATS).items()}
INSTRUCTIONS |= PACKED | MOVEMENT | WARPS
