"""Error-controlled steps in Triton: the operations of `fastgen.kernels.runge_kutta.contract`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from fastgen.kernels.runge_kutta.contract import Workspace
from fastgen.kernels.runge_kutta.reference import ReferenceOperations
from fastgen.kernels.runge_kutta.triton_kernels import commit_kernel, control_kernel, stage_kernel
from fastgen.kernels.triton_support.launch import OPTIONS, on_device

# Elements of a row that a program takes at a time: more would not fit the registers.
MAX_BLOCK = 256
# Size of a launch grid's second axis.
MAX_TILES = 65535


def used(weights: list[float]) -> int:
    """A bit for every weight that is not zero."""
    return sum(1 << j for j, w in enumerate(weights) if w)


class TritonOperations(ReferenceOperations):
    """Three launches beside one for each stage, and none of them waits.

    The first step's size and the look at which rows still run are PyTorch.
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
        elements = w.y.shape[1]
        self._block = min(MAX_BLOCK, triton.next_power_of_2(max(elements, 1)))
        if elements > MAX_TILES * MAX_BLOCK:
            raise ValueError(f"y0: at most {MAX_TILES * MAX_BLOCK} elements a row, got {elements}")
        self._sizes = w.y.shape[0], elements

    def stage(self, i: int) -> None:
        """Input and time of stage i."""
        w, a = self.w, self._tables["a"][i]
        capacity, elements = self._sizes
        tiles = -(-elements // self._block)
        if not self.rows * tiles:
            return
        with on_device(w.y):
            stage_kernel[(self.rows, tiles)](
                w.y,
                w.k,
                w.stage,
                w.y_new,
                w.stage_times,
                a,
                self._tables["c"][i:],
                w.control,
                self.rows,
                capacity,
                elements,
                i,
                self._used[i],
                i == len(w.c) - 1,
                self._block,
                **OPTIONS,
            )

    def control(self) -> None:
        """Error, acceptance, next step."""
        w = self.w
        with on_device(w.y):
            control_kernel[(self.rows,)](
                w.y,
                w.y_new,
                w.k,
                self._tables["error"],
                w.segment_ends,
                w.control,
                w.count,
                self._numbers,
                self.rows,
                *self._sizes,
                len(w.segment_ends),
                len(w.c),
                self._used_error,
                self._block,
                **OPTIONS,
            )

    def commit(self) -> None:
        """Outputs, new states, next steps."""
        w = self.w
        with on_device(w.y):
            commit_kernel[(self.rows,)](
                w.y,
                w.y_new,
                w.k,
                w.ys,
                self._tables["dense"],
                w.output_times,
                w.control,
                w.count,
                self.rows,
                *self._sizes,
                w.output_times.shape[-1],
                w.output_times.shape[1] if w.output_times.ndim == 2 else 0,
                w.step_size.max_steps,
                len(w.c),
                w.dense.shape[1],
                self._used_dense,
                self._block,
                **OPTIONS,
            )
