"""Every instruction that the machine knows, by its full name."""

from tests.ptx.floats import FLOATS
from tests.ptx.integers import INTEGERS
from tests.ptx.movement import MOVEMENT
from tests.ptx.warps import WARPS


def _lane_by_lane(kinds, compute):
    def function(machine, operands):
        sources = [machine.get(o, kind) for o, kind in zip(operands[1:], kinds, strict=True)]
        machine.put(operands[0], compute(*sources))

    return function


# {name: function of a machine and the instruction's operands}
INSTRUCTIONS = {name: _lane_by_lane(*entry) for name, entry in (INTEGERS | FLOATS).items()}
INSTRUCTIONS |= MOVEMENT | WARPS
