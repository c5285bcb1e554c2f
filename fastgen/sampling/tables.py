"""The numbers of a lowered program on a device: coefficients and draw ids of every stage."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastgen.common.devices import integers, upload
from fastgen.kernels import Noise, Stream
from fastgen.plans import Program


class Tables:
    """Coefficients and draw ids of every stage, on the device: one block of memory for each.

    With a guidance scale per sample [B] there is one table per row. Coefficients are affine in
    the scale, so they follow from two programs that were lowered for the scales 2 and 3.
    """

    def __init__(
        self,
        program: Program,
        device: torch.device,
        scale: Tensor | None = None,
        at_three: Program | None = None,
    ) -> None:
        rows = 1 if scale is None else scale.shape[0]
        tables = [None if s is None else s.table for s in program.kernel_calls]
        sizes = [0 if table is None else rows * table.size for table in tables]
        counts = [0 if s is None else len(s.normals) for s in program.kernel_calls]
        self.packed = _pack(program, device)
        if scale is not None and at_three is not None:
            offset = upload(scale.double(), device)[:, None] - 2.0
            spread = self.packed + offset * (_pack(at_three, device) - self.packed)
            parts = torch.split(spread, [0 if t is None else t.size for t in tables], 1)
            self.packed = torch.cat([part.reshape(-1) for part in parts])
        draws = [n.draw for s in program.kernel_calls if s is not None for n in s.normals]
        self.packed_draws = integers(draws, device)
        self.coefficients = [
            None if table is None else part.view(rows, *table.shape)
            for table, part in zip(tables, torch.split(self.packed, sizes), strict=True)
        ]
        self.draws = [
            part if count else None
            for part, count in zip(torch.split(self.packed_draws, counts), counts, strict=True)
        ]

    def load(self, other: Tables) -> None:
        """Take the values of tables of the same sizes, in place: bound kernels then use them."""
        self.packed.copy_(other.packed)
        self.packed_draws.copy_(other.packed_draws)

    def noise(self, seeds: Tensor, ids: Tensor) -> list[Noise | None]:
        """What each stage draws."""
        return [None if d is None else Noise(seeds, ids, d, Stream.SOLVER) for d in self.draws]


def _pack(program: Program, device: torch.device) -> Tensor:
    tables = [s.table.reshape(-1) for s in program.kernel_calls if s is not None]
    return upload(torch.from_numpy(np.concatenate([np.empty(0), *tables])), device)
