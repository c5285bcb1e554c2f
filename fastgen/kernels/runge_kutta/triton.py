"""Error-controlled steps in Triton: the operations of `fastgen.kernels.runge_kutta.contract`."""

from __future__ import annotations

from collections.abc import Callable

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
    step_kernel,
)
from fastgen.kernels.triton_support.launch import Launch

# Elements of a row that a program takes at a time: more would not fit the registers.
MAX_BLOCK = 256
# Elements of a program that reads a row for its error, or moves it.
TILE = 16 * MAX_BLOCK


def used(weights: list[float]) -> int:
    """A bit for every weight that is not zero."""
    return sum(1 << j for j, w in enumerate(weights) if w)


class TritonOperations(ReferenceOperations):
    """One launch between two evaluations of f.

    Fewer there cannot be, as each evaluation needs the one before: a step has as many launches as
    evaluations, and one more where rows are longer than a tile, since no program may move before
    the last one has left its part of the error. None waits for the host. The first step's size and
    the look at which rows still run are PyTorch.
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
        self._kind, self._last = w.y.dtype, len(w.c) - 1
        self._block = min(MAX_BLOCK, triton.next_power_of_2(max(elements, 1)))
        self._held = self._numbers.new_empty(2, rows), w.count.new_empty(2, rows)
        ends, firsts = tiles(self.segment_ends)
        self._long, self._error_tiles = elements > TILE, len(ends)
        self._tile_ends, self._first_tiles = w.count.new_tensor(ends), w.count.new_tensor(firsts)
        self._partial = self._numbers.new_empty(rows if self._long else 0, len(ends))
        self._arrived = torch.zeros(rows if self._long else 0, dtype=torch.int32, device=device)
        self._described: dict[tuple[str, int, int], Launch] = {}

    def take(self, i: int, slope: Tensor) -> None:
        """f at stage i; the input of the next stage, after the last one that of the next step."""
        size = self.rows * self._sizes[1]
        if slope.dtype != self._kind or slope.numel() != size or not slope.is_contiguous():
            k = self.w.k[i, : self.rows]
            k[:] = slope
            slope = k
        if i < self._last:
            self._stage(i + 1, slope)
        elif self._long:
            self._error(slope)
            self._commit(True)
        else:
            self._step(slope)

    def stage(self, i: int) -> None:
        """Input and time of stage i."""
        self._stage(i, self.w.k[i - 1, : self.rows])

    def control(self) -> None:
        """Error, acceptance, next step."""
        slope = self.w.k[-1, : self.rows]
        if self._long:
            self._error(slope)
        else:
            self._control(slope)

    def commit(self) -> None:
        """Outputs, new states, next steps."""
        self._commit(False)

    def _launched(self, name: str, i: int, describe: Callable[[], Launch]) -> Launch:
        """A launch, described when it is first made for so many rows."""
        found = self._described.get((name, i, self.rows))
        if found is None:
            found = self._described[name, i, self.rows] = describe()
        return found

    def _stage(self, i: int, slope: Tensor) -> None:
        w, count = self.w, -(-self._sizes[1] // self._block)
        if not self.rows * count:
            return

        def describe() -> Launch:
            return Launch(
                stage_kernel,
                self.rows * count,
                (w.y.dtype,),
                (
                    (w.y, w.k, w.stage, w.y_new, w.stage_times),
                    *(self._tables["a"][i], self._tables["c"][i:], w.control),
                ),
                (count, *self._sizes),
                (i, self._used[i], i == len(w.c) - 1, self._block),
            )

        self._launched("stage", i, describe)((slope,))

    def _rules(self) -> tuple[Tensor, ...]:
        """What a decision reads and writes beside the states."""
        w = self.w
        tables = w.segment_ends, w.live, w.control, w.count, self._numbers
        return self._tables["error"], *tables

    def _norms(self) -> tuple[int, ...]:
        w = self.w
        stride = w.live.shape[1] if w.live.ndim == 2 else 0
        return (*self._sizes, len(w.segment_ends), stride)

    def _outputs(self) -> tuple[int, ...]:
        times = self.w.output_times
        stride = times.shape[1] if times.ndim == 2 else 0
        return times.shape[-1], stride, self.w.step_size.max_steps

    def _next(self) -> tuple[Tensor, ...]:
        """The tables of a step's first stage."""
        return self._tables["a"][1], self._tables["c"][1:]

    def _error(self, slope: Tensor) -> None:
        w, count = self.w, self._error_tiles

        def describe() -> Launch:
            cut = self._first_tiles, self._tile_ends, self._partial, self._arrived
            return Launch(
                error_kernel,
                self.rows * count,
                (w.y.dtype,),
                ((w.y, w.k, w.y_new), *self._rules(), *self._held, *cut),
                (count, *self._norms()),
                (len(w.c), self._used_error, self._block),
            )

        if self.rows:
            self._launched("error", 0, describe)((slope,))

    def _control(self, slope: Tensor) -> None:
        w = self.w

        def describe() -> Launch:
            return Launch(
                control_kernel,
                self.rows,
                (w.y.dtype,),
                ((w.y, w.k, w.y_new), *self._rules(), *self._held),
                self._norms(),
                (len(w.c), self._used_error, self._block),
            )

        if self.rows:
            self._launched("control", 0, describe)((slope,))

    def _commit(self, goes_on: bool) -> None:
        w, count = self.w, max(1, -(-self._sizes[1] // TILE))

        def describe() -> Launch:
            tables = self._tables["dense"], w.output_times, w.control, w.count, *self._held
            return Launch(
                commit_kernel,
                self.rows * count,
                (),
                ((w.y, w.k, w.y_new, w.ys, w.stage, w.stage_times), *tables, *self._next()),
                (count, *self._sizes, *self._outputs()),
                (len(w.c), w.dense.shape[1], self._used_dense, goes_on, TILE, self._block),
            )

        if self.rows:
            self._launched("commit", int(goes_on), describe)(())

    def _step(self, slope: Tensor) -> None:
        w = self.w

        def describe() -> Launch:
            tables = *self._rules(), self._tables["dense"], w.output_times, *self._next()
            used = self._used_error, w.dense.shape[1], self._used_dense
            return Launch(
                step_kernel,
                self.rows,
                (w.y.dtype,),
                ((w.y, w.k, w.y_new, w.ys, w.stage, w.stage_times), *tables),
                (*self._norms(), *self._outputs()),
                (len(w.c), *used, TILE, self._block),
            )

        if self.rows:
            self._launched("step", 0, describe)((slope,))


def tiles(segment_ends: list[int]) -> tuple[list[list[int]], list[int]]:
    """How segments are cut: [begin, end) of each tile, and the first tile of each segment."""
    ends: list[list[int]] = []
    firsts, begin = [0], 0
    for end in segment_ends:
        ends += [[at, min(at + TILE, end)] for at in range(begin, end, TILE)]
        firsts.append(len(ends))
        begin = end
    return ends, firsts
