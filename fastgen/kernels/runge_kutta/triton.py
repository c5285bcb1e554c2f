"""Error-controlled steps in Triton: the operations of `fastgen.kernels.runge_kutta.contract`."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from fastgen.kernels.runge_kutta.contract import Workspace
from fastgen.kernels.runge_kutta.reference import ReferenceOperations
from fastgen.kernels.runge_kutta.triton_kernels import (
    commit_kernel,
    control_kernel,
    error_kernel,
    stage_kernel,
)
from fastgen.kernels.triton_support.launch import FixedLaunch

# Elements of a row that a program takes at a time: more would not fit the registers.
MAX_BLOCK = 256
# Elements of a program that reads a row for its error, or moves it.
TILE = 16 * MAX_BLOCK


def used(weights: list[float]) -> int:
    """A bit for every weight that is not zero."""
    return sum(1 << j for j, w in enumerate(weights) if w)


class TritonOperations(ReferenceOperations):
    """One launch for each stage, two for the rest of a step, three where rows are long.

    None of them waits. The first step's size and the look at which rows still run are PyTorch.
    """

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace)
        w, s, device = workspace, workspace.step_size, workspace.y.device
        numbers = [*s[:5], *s.beta]
        self._tables: dict[str, Tensor] = {
            name: getattr(w, name).to(device) for name in ("a", "c", "error", "dense")
        }
        self._numbers = torch.tensor(numbers, dtype=torch.float64, device=device)
        self._used = [used(row) for row in w.a.tolist()]
        self._used_error = used(w.error.tolist())
        self._used_dense = used([row[0] or row[1] for row in w.dense.tolist()])
        rows, elements = self._sizes = w.y.shape[0], w.y.shape[1]
        self._block = min(MAX_BLOCK, triton.next_power_of_2(max(elements, 1)))
        self._held = self._numbers.new_empty(2, rows), w.count.new_empty(2, rows)
        ends, firsts = tiles(self.segment_ends)
        self._long, self._error_tiles = elements > TILE, len(ends)
        self._tile_ends, self._first_tiles = w.count.new_tensor(ends), w.count.new_tensor(firsts)
        self._partial = self._numbers.new_empty(rows if self._long else 0, len(ends))
        self._described: dict[tuple[str, int, int], FixedLaunch] = {}

    def _launch(self, key: tuple[str, int], *description: Any) -> None:
        """Describe a launch when it is first made for so many rows, and make it."""
        found = self._described.get((*key, self.rows))
        if found is None:
            found = self._described[(*key, self.rows)] = FixedLaunch(*description)
        found()

    def stage(self, i: int) -> None:
        """Input and time of stage i."""
        w, count = self.w, -(-self._sizes[1] // self._block)
        if not self.rows * count:
            return
        tables = self._tables["a"][i], self._tables["c"][i:], w.control
        self._launch(
            ("stage", i),
            stage_kernel,
            (self.rows * count, 1),
            (w.y, w.k, w.stage, w.y_new, w.stage_times, *tables),
            (count, *self._sizes),
            (i, self._used[i], i == len(w.c) - 1, self._block),
        )

    def control(self) -> None:
        """Error, acceptance, next step."""
        w, error, count = self.w, self._tables["error"], self._error_tiles
        stages, sizes = (len(w.c), self._used_error), (count, *self._sizes)
        if self._long:
            self._launch(
                ("error", 0),
                error_kernel,
                (self.rows * count, 1),
                (w.y, w.y_new, w.k, error, w.control, self._tile_ends, self._partial),
                sizes,
                (*stages, TILE, self._block),
            )
        tables = w.segment_ends, w.live, w.control, w.count, self._numbers, *self._held
        self._launch(
            ("control", 0),
            control_kernel,
            (self.rows, 1),
            (w.y, w.y_new, w.k, error, *tables, self._first_tiles, self._partial),
            (*sizes, len(w.segment_ends), w.live.shape[1] if w.live.ndim == 2 else 0),
            (*stages, self._long, self._block),
        )

    def commit(self) -> None:
        """Outputs, new states, next steps."""
        w, count = self.w, max(1, -(-self._sizes[1] // TILE))
        times, dense = w.output_times, self._tables["dense"]
        stride = times.shape[1] if times.ndim == 2 else 0
        self._launch(
            ("commit", 0),
            commit_kernel,
            (self.rows * count, 1),
            (w.y, w.y_new, w.k, w.ys, dense, times, w.control, w.count, *self._held),
            (count, *self._sizes, times.shape[-1], stride, w.step_size.max_steps),
            (len(w.c), w.dense.shape[1], self._used_dense, TILE, self._block),
        )


def tiles(segment_ends: list[int]) -> tuple[list[list[int]], list[int]]:
    """How segments are cut: [begin, end) of each tile, and the first tile of each segment."""
    ends: list[list[int]] = []
    firsts, begin = [0], 0
    for end in segment_ends:
        ends += [[at, min(at + TILE, end)] for at in range(begin, end, TILE)]
        firsts.append(len(ends))
        begin = end
    return ends, firsts
