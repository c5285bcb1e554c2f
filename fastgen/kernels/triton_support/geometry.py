"""How a call is cut into programs: fixed rules, no tuning at run time."""

from __future__ import annotations

from typing import NamedTuple

import torch

# Threads of a program. A thread has one group, or two in large float32 calls of one draw or none:
# without noise the loads in flight decide, with noise addresses and keys are shared.
THREADS = 128
LARGE = 1 << 20
# Eight elements of more terms than this would not fit the registers of a thread, nor four of
# float64: those are shared out over two threads.
MAX_WIDE_TERMS = 12
# Nor do eight elements of more terms than this beside noise.
MAX_NOISY_TERMS = 4


class Geometry(NamedTuple):
    """Sizes of a call and the constants of the kernel that serves it; see `elements.locate`."""

    rows: int
    elements: int
    width: int
    block: int
    flat: bool
    mixed: bool
    exact: bool

    @property
    def programs(self) -> int:
        """Size of the launch grid."""
        groups = -(-self.elements // self.width)
        if self.mixed:
            return -(-self.rows * groups // self.block)
        return self.rows * -(-groups // self.block)


def geometry(
    rows: int, elements: int, dtypes: list[torch.dtype], terms: int, noises: int, by_row: bool
) -> Geometry:
    """The geometry of a call with at least one element.

    Args:
        rows, elements: the tensors' [rows, elements].
        dtypes: all dtypes that are read or written.
        terms: number of terms of a sum.
        noises: number of draws.
        by_row: coefficients differ between rows.
    """
    if not (noises or by_row):  # nothing depends on the row
        rows, elements = 1, rows * elements
    many = terms > MAX_WIDE_TERMS
    if 1 <= elements <= 2 and rows > 1:
        width = elements
    elif all(d.itemsize == 2 for d in dtypes) and elements % 8 == 0 and not many:
        # With tensors of 32 bits beside those of 16, eight elements would pass through shared
        # memory; four are 128 bits of the former and 64 of the latter.
        width = 8
    else:
        width = 4
    block = THREADS
    if many and torch.float64 in dtypes:
        block //= 2
    elif (
        rows * elements >= LARGE
        and all(d == torch.float32 for d in dtypes)
        and (noises == 0 or (noises == 1 and terms <= MAX_NOISY_TERMS))
    ):
        block *= 2
    groups = -(-elements // width)
    mixed = rows > 1 and -(-groups // block) * block > 1.25 * groups
    return Geometry(rows, elements, width, block, rows == 1, mixed, elements % width == 0)
