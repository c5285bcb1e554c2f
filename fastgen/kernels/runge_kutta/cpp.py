"""Error-controlled steps in C++ on CPU tensors (``csrc/runge_kutta``)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import fastgen._C as _C
from fastgen.common.compiled_kernels import Kernels
from fastgen.kernels.contract import DTYPE_CODES
from fastgen.kernels.cpp_support import address, readable, thread_count
from fastgen.kernels.runge_kutta.contract import StepByStep, Workspace


class CppOperations(StepByStep):
    """The operations of `runge_kutta.contract`, and all of them between two evaluations.

    `advance` takes f at the stage's input and leaves the next stage's there. It returns 0,
    FINISHED or FEWER_ROWS, or -1 for a tensor that is not contiguous, of the state's dtype and
    of the shape given to `expect`.
    """

    def __init__(self, workspace: Workspace) -> None:
        w = self.w = workspace  # only addresses reach C++, and this holds them
        rows, elements = w.y.shape
        tables = (w.a, w.c, w.error, w.dense, w.segment_ends, w.output_times, w.live)
        tensors = (w.y, w.y_new, w.k, w.stage, w.stage_times, w.ys, w.control, w.count)
        for tensor in (*tables, *tensors):
            if not (tensor.is_cpu and tensor.is_contiguous()):
                raise ValueError("workspace: expected contiguous tensors on the CPU")
        s = w.step_size
        self._stepper = _C.Stepper(
            rows=rows,
            elements=elements,
            stages=len(w.c),
            degree=w.dense.shape[1],
            segments=len(w.segment_ends),
            outputs=w.output_times.shape[-1],
            output_stride=w.output_times.shape[1] if w.output_times.ndim == 2 else 0,
            live_stride=w.live.shape[1] if w.live.ndim == 2 else 0,
            float64=w.y.dtype == torch.float64,
            tables=[address(x) for x in tables],
            tensors=[address(x) for x in tensors],
            step_size=[*s[:5], *s.beta, s.order],
            max_steps=s.max_steps,
            compact=w.compact,
            first_step_given=w.first_step_given,
            threads=thread_count(w.y.numel()),
        )
        self.advance: Callable[[Tensor], int] = self._stepper.advance
        self.stage = self._stepper.stage
        self.control = self._stepper.control
        self.commit = self._stepper.commit
        self.probe = self._stepper.probe
        self.first = self._stepper.first
        self.start = self._stepper.start
        self.compacted = self._stepper.compacted
        self.far = self._stepper.far

    def begin(self, rtol: Tensor, atol: Tensor, first_step: Tensor) -> None:
        """See `FusedOperations.begin`."""
        held = [readable(x) for x in (rtol, atol, first_step)]
        places = [(address(x), x.stride(0) if x.ndim else 0) for x in held]
        self._numbers, self._held = (places[0], places[1], places[2]), held
        self.begin_again()

    def begin_again(self) -> None:
        """See `FusedOperations.begin_again`."""
        self._stepper.begin(address(self.w.ys), *self._numbers)

    def program(self, kernels: Kernels, slope: Tensor, /) -> _C.Program:
        """See `FusedOperations.program`."""
        return _C.Program(kernels.calls, address(slope))

    def drive(self, program: _C.Program, until: int, /) -> int:
        """See `FusedOperations.drive`."""
        return self._stepper.drive(program, until)

    @property
    def rows(self) -> int:
        """Rows in use."""
        return self._stepper.rows

    @property
    def evaluated(self) -> tuple[int, int]:
        """Calls of `advance`, and rows handed to them."""
        return self._stepper.calls, self._stepper.evaluated

    def expect(self, shape: torch.Size) -> None:
        """The shape that slopes have from now on."""
        dtype = self.w.y.dtype
        self._stepper.expect(dtype, DTYPE_CODES[dtype], shape)
