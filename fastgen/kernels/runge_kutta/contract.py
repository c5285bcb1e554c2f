"""Error-controlled Runge-Kutta steps: what the implementations share.

An implementation is a class that is given a `Workspace` and works on it in place:

    take(i, f)  f at stage i; leaves the input of the next stage, or of the next step's first
    stage(i)    the input and time of stage i; that of the last stage is the new state
    control()   the error's norm, acceptance and the next step's size
    commit()    outputs that accepted rows have passed, their new state; the next step of all rows
    probe(), first()   the first step's size (two evaluations), or start() where it was given
    compacted() running rows first, if that is wanted; 0, FINISHED or FEWER_ROWS

Every row has its own time and step, and no number of a row depends on another row. Semantics:
`fastgen.kernels.runge_kutta.reference`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import torch
from torch import Tensor

from fastgen.common.compiled_kernels import Kernels
from fastgen.common.step_size import StepSize


class Control(IntEnum):
    """Rows of the float64 table of a workspace, [9, R].

    STEP: the signed step attempted now. ERROR: the last norm; ERROR_1, ERROR_2: those of the
    last accepted steps. PROPOSAL: size of the next step, negative after a rejection.
    """

    TIME = 0
    STEP = 1
    END = 2
    RTOL = 3
    ATOL = 4
    ERROR = 5
    ERROR_1 = 6
    ERROR_2 = 7
    PROPOSAL = 8


class Count(IntEnum):
    """Rows of the int64 table of a workspace, [6, R].

    CURSOR: the next output. ROW: the sample that this row holds. TAKEN: whether the last attempt
    was accepted.
    """

    STATUS = 0
    ACCEPTED = 1
    REJECTED = 2
    CURSOR = 3
    ROW = 4
    TAKEN = 5


class Status(IntEnum):
    """What became of a sample."""

    RUNNING = 0
    DONE = 1
    EVENT = 2
    MAX_STEPS = 3
    UNDERFLOW = 4
    NON_FINITE = 5


LANES = 1024
MAX_STAGES = 16
FINISHED, FEWER_ROWS = 1, 2


@dataclass
class Workspace:
    """All that a solve works on. R rows of N elements, S stages, T outputs.

    a [S, S], c, error [S], dense [S, degree]: float64 on the CPU. segment_ends: int64 [G], where
    the parts of a row end whose norms are taken apart; the largest counts. live: int64 [G], or
    [R, G] by sample, how many elements of a part are not padding: what its mean divides by.
    output_times: float64 [T] or [R, T]. y, y_new, stage [R, N], k [S, R, N], stage_times [R],
    ys [T, R, N]: of the state's dtype. control [9, R], count [6, R].
    """

    a: Tensor
    c: Tensor
    error: Tensor
    dense: Tensor
    segment_ends: Tensor
    live: Tensor
    output_times: Tensor
    y: Tensor
    y_new: Tensor
    k: Tensor
    stage: Tensor
    stage_times: Tensor
    ys: Tensor
    control: Tensor
    count: Tensor
    step_size: StepSize
    compact: bool = False
    first_step_given: bool = False

    @classmethod
    def allocate(
        cls,
        y: Tensor,
        a: Tensor,
        c: Tensor,
        error: Tensor,
        dense: Tensor,
        segment_ends: Tensor,
        output_times: Tensor,
        step_size: StepSize,
        compact: bool = False,
        first_step_given: bool = False,
        live: Tensor | None = None,
    ) -> Workspace:
        """A workspace for states like y [R, N]; the tables of rows are zero.

        live: None where there is no padding.
        """
        rows, elements = y.shape
        stages, outputs = len(c), output_times.shape[-1]
        device = y.device
        if live is None:
            live = segment_ends.diff(prepend=segment_ends.new_zeros(1))
        return cls(
            a,
            c,
            error,
            dense,
            segment_ends.to(device),
            live.to(device).contiguous(),
            output_times.contiguous(),
            y.detach().clone(memory_format=torch.contiguous_format),
            torch.empty_like(y, memory_format=torch.contiguous_format),
            y.new_empty(stages, rows, elements),
            y.detach().clone(memory_format=torch.contiguous_format),
            y.new_zeros(rows),
            y.new_empty(outputs, rows, elements),
            torch.zeros(len(Control), rows, dtype=torch.float64, device=device),
            torch.zeros(len(Count), rows, dtype=torch.int64, device=device),
            step_size,
            compact,
            first_step_given,
        )


class Operations(Protocol):
    """What an implementation offers."""

    w: Workspace

    @property
    def rows(self) -> int:
        """Rows in use."""

    def take(self, i: int, slope: Tensor) -> None:
        """f at stage i >= 1, for all rows in use; the input of what is evaluated next."""

    def stage(self, i: int) -> None:
        """Input and time of stage i >= 1."""

    def control(self) -> None:
        """Error, acceptance, next step."""

    def commit(self) -> None:
        """Outputs and new states."""

    def probe(self) -> None:
        """First guess of the first step from k_0, and the input of the second."""

    def first(self) -> None:
        """The first step, from k_0 and k_1."""

    def start(self) -> None:
        """The first step, as given."""

    def compacted(self) -> int:
        """Running rows first; a code."""


class StepByStep:
    """`take` by the other operations."""

    def take(self: Operations, i: int, slope: Tensor) -> None:
        """See `Operations`."""
        self.w.k[i, : self.rows] = slope
        if i < len(self.w.c) - 1:
            self.stage(i + 1)
        else:
            self.control()
            self.commit()
            self.stage(1)


class FusedOperations(Operations, Protocol):
    """What an implementation offers that does all between two evaluations in one call."""

    def begin(self, rtol: Tensor, atol: Tensor, first_step: Tensor) -> None:
        """Begin a solve from the states at y and the times that are there, with outputs to ys.

        All float64, [] or [R]. The tables and the outputs at the first time are written, whatever
        an earlier solve on the same memory left; ys may be other memory than that one's.
        """

    def far(self, steps: float, /) -> bool:
        """Whether a row in use is more than so many steps from its end."""

    @property
    def evaluated(self) -> tuple[int, int]:
        """Calls of `advance`, and rows handed to them."""

    def advance(self, slope: Tensor, /) -> int:
        """Take f at the stage's input, leave the next stage's there.

        Returns 0, FINISHED or FEWER_ROWS, or -1 for a tensor that is not contiguous, of the state's
        dtype and of the shape given to `expect`.
        """

    def expect(self, shape: torch.Size) -> None:
        """The shape that slopes have from now on."""

    def begin_again(self) -> None:
        """`begin` with the same numbers, from the states and times that are there now, to ys."""

    def program(self, kernels: Kernels, slope: Tensor, /) -> Any:
        """What `drive` takes: compiled kernels that leave f in `slope`. It holds neither."""

    def drive(self, program: Any, until: int, /) -> int:
        """`advance` with what the kernels of a `program` leave, again and again.

        Returns its code, or 0 after so many evaluations in all.
        """
