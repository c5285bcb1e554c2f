"""The loop: evaluate the field, let the kernels do everything else, until all rows have ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastgen.common.checks import as_numbers
from fastgen.common.graphs import Recording, recorded, warm_up
from fastgen.common.memory import readable
from fastgen.common.repeats import Looks, check_repeats
from fastgen.common.step_size import StepSize
from fastgen.common.tableau import Tableau
from fastgen.kernels.runge_kutta.contract import (
    FEWER_ROWS,
    FINISHED,
    Control,
    Count,
    Operations,
    Status,
    Workspace,
)
from fastgen.kernels.runge_kutta.operator import fused_operations, operations
from fastgen.ode.memory import FusedSolve, Outcome, finished, workspace
from fastgen.ode.norms import Norm, NormedOperations
from fastgen.ode.problem import Field

# On a GPU the host looks whether rows are still running only once in so many steps.
CHECK_EVERY = 8
# Steps to the end from which on f is asked whether it gives the same value again.
FAR = 256
# Evaluations of compiled kernels in one call of C++, which cannot be interrupted.
AT_ONCE = 1024


class Observer(Protocol):
    """Sees every attempted step of the rows in use."""

    def decided(self, w: Workspace, rows: int) -> None:
        """After acceptance is known, before anything moves."""

    def moved(self, w: Workspace, rows: int) -> None:
        """After accepted rows have moved."""


class NeedsGradientError(Exception):
    """Raised by a solve that watches for it: f's value requires gradients."""


def integrate(
    field: Field,
    y: Tensor,
    times: Tensor,
    tableau: Tableau,
    rtol: Tensor,
    atol: Tensor,
    step_size: StepSize,
    first_step: float | Tensor | None = None,
    backend: str | None = None,
    observer: Observer | None = None,
    check_every: int | None = None,
    watch: bool = False,
    capture: bool = False,
    norm: Norm | None = None,
) -> Outcome:
    """Solve from times[..., 0] to times[..., -1]; see `fastgen.odeint`.

    Args:
        field: the right-hand side.
        y: [R, N] at the first times.
        times: float64 [T] or [R, T].
        tableau: a method with an error estimate.
        rtol, atol: [R].
        step_size: numbers of the controller.
        first_step: size of the first step, for all or [R]; None computes it.
        backend: as in `fastgen.kernels.dispatch.choose`.
        observer: sees every step.
        check_every: steps between two looks at the rows' states.
        watch: evaluate f for the first time with gradients enabled.
        capture: record an attempted step of the whole batch, and repeat it.
        norm: of the error; None is the kernels' own.

    Raises:
        NeedsGradientError: if that value requires gradients.
    """
    shared = y, field.state, times.detach(), tableau, step_size, first_step is not None
    compact = field.compact and not capture
    plain = observer is not None or capture or norm is not None
    made = None if plain else fused_operations(y.device, backend)
    if made is not None:
        solve = FusedSolve.of(made, *shared, compact)
        first = as_numbers("first_step", 0.0 if first_step is None else first_step, y.device)
        solve.ops.begin(rtol, atol, first)
        with torch.no_grad():
            calls, rows = _run_fused(field, solve, watch) if len(y) else (0, 0)
        return solve.outcome(calls, rows)
    w = workspace(*shared, compact)
    _begin(w, rtol, atol, first_step)
    if check_every is None:
        check_every = CHECK_EVERY if y.is_cuda else 1
    with torch.no_grad():
        if y.shape[0] == 0:
            calls, rows = 0, 0
        else:
            ops = operations(w, backend) if norm is None else NormedOperations(w, field.state, norm)
            calls, rows = _run(field, w, ops, observer, check_every, watch, capture)
    return finished(w, calls, rows)


def _begin(w: Workspace, rtol: Tensor, atol: Tensor, first_step: float | Tensor | None) -> None:
    """Fill the tables; outputs at the first time are there already."""
    times, control, count = w.output_times, w.control, w.count
    control[Control.TIME] = times[..., 0]
    control[Control.END] = times[..., -1]
    control[Control.RTOL], control[Control.ATOL] = rtol, atol
    proposal = as_numbers("first_step", 0.0 if first_step is None else first_step)
    control[Control.PROPOSAL] = proposal
    control[Control.ERROR] = 1.0
    w.stage_times.copy_(control[Control.TIME])
    count[Count.ROW] = torch.arange(w.y.shape[0], device=w.y.device)
    # Outputs at the first time are known, and the cursor stands behind them.
    known = (times == times[..., :1]).cumprod(-1).sum(-1)
    count[Count.CURSOR] = known
    w.ys[: int(known.max() if known.numel() else 0)] = w.y
    count[Count.STATUS] = torch.where(
        control[Control.TIME] == control[Control.END], Status.DONE, Status.RUNNING
    )


def _rows(w: Workspace, rows: int) -> Tensor | None:
    return w.count[Count.ROW, :rows].clone()


def _watched(call: Callable[..., Any], *arguments: Any) -> Any:
    with torch.enable_grad():
        value = call(*arguments)
    if any(isinstance(x, Tensor) and x.requires_grad for x in pytree.tree_leaves(value)):
        raise NeedsGradientError
    return value


def _run_fused(field: Field, solve: FusedSolve, watch: bool) -> tuple[int, int]:
    """One C++ call between two evaluations."""
    w, ops, looks = solve.w, solve.ops, Looks()
    advance = ops.advance
    again = repeated = 0  # evaluations that no step needs
    if ops.compacted() == FINISHED:
        return 0, 0
    while True:
        rows, done = ops.rows, ops.evaluated[0]
        stage, times = w.stage[:rows], w.stage_times[:rows]
        if rows < w.y.shape[0] and done == 0:  # some samples have nothing to do
            stage.copy_(w.y[:rows])
            times.copy_(w.control[Control.TIME, :rows])
        # Buffers are bound once: they are views on the same memory until rows are left out.
        f, t, y = solve.bound(field, times, stage)
        shape = y.shape if field.state.direct else stage.shape
        ops.expect(shape)
        slope = _watched(f, t, y) if watch else f(t, y)
        watch, program = False, None
        while True:
            code = advance(slope)
            if code == -1:  # a slope of another dtype or layout than C++ reads
                fixed = field.checked(slope, stage) if field.state.direct else slope
                code = advance(readable(fixed.to(w.y.dtype), "f").reshape(shape))
            done += 1
            if code == 0 and field.compiled and (compiled := field.kernels(f)) is not None:
                program = program or ops.program(*compiled)
                code = ops.drive(program, min(looks.next, done + AT_ONCE))
                done = ops.evaluated[0]
            if code:
                break
            slope = f(t, y)
            if done >= looks.next and looks.due(done) and ops.far(FAR):
                slope = checked_again(w, rows, lambda: f(t, y), slope)  # noqa: B023
                again, repeated = again + 1, repeated + rows
        if code == FINISHED:
            calls, evaluated = ops.evaluated
            return calls + again, evaluated + repeated
        assert code == FEWER_ROWS


def _run(
    field: Field,
    w: Workspace,
    ops: Operations,
    observer: Observer | None,
    check_every: int,
    watch: bool,
    capture: bool,
) -> tuple[int, int]:
    """The same, operation by operation.

    An attempted step is always the same work on the same memory, until rows are left out: rows
    that have ended are not changed by it. So one can be recorded, and it is a step like any other
    that warms it up.
    """
    calls = evaluated = 0
    rows, looks = -1, Looks()
    made: Recording | None = None
    call: Callable[[], Any] = lambda: None  # noqa: E731

    def value() -> Tensor:
        nonlocal calls
        # The first value is enough: whether f depends on what needs gradients shows in it.
        found = _watched(call) if watch and not calls else call()
        calls += 1
        return field.checked(found, w.stage[:rows]) if field.state.direct else found

    def attempt() -> None:
        """A step whose first stage's input is there; leaves that of the next step."""
        last = len(w.c) - 1
        for i in range(1, last + (observer is None)):
            ops.take(i, value())
        if observer is not None:
            w.k[last, :rows] = value()
            ops.control()
            observer.decided(w, rows)
            ops.commit()
            observer.moved(w, rows)
            ops.stage(1)

    def first_attempt() -> None:
        """The same, also where one was broken off before."""
        ops.stage(1)
        attempt()

    def bind() -> Callable[[], Any]:
        f, t, y = field.bound(
            w.stage_times[:rows], w.stage[:rows], _rows(w, rows) if field.told else None
        )
        return lambda: f(t, y)

    if ops.compacted() == FINISHED:
        return 0, 0
    rows = ops.rows
    w.stage[:rows] = w.y[:rows]
    w.stage_times[:rows] = w.control[Control.TIME, :rows]
    call = bind()
    w.k[0, :rows] = value()
    if w.first_step_given:
        ops.start()
    else:
        ops.probe()
        w.k[1, :rows] = value()
        ops.first()
    evaluated = calls * rows
    step = 0
    code = ops.compacted()
    ops.stage(1)
    while code != FINISHED:
        if code == FEWER_ROWS:
            rows = ops.rows
            call = bind()
            ops.stage(1)
        before = calls
        if made is not None:
            made.replay()
        elif capture:
            refused = warm_up(first_attempt, w.y.device, 1)
            made = recorded(attempt, w.y.device, "step of odeint", refused)
        else:
            attempt()
        calls = before + len(w.c) - 1  # a replay does not pass `value`, and a warm-up does
        evaluated += (len(w.c) - 1) * rows
        step += 1
        if looks.due(calls) and _far(w, rows):
            w.stage[:rows], w.stage_times[:rows] = w.y[:rows], w.control[Control.TIME, :rows]
            checked_again(w, rows, call, call())
            ops.stage(1)
            calls, evaluated = calls + 2, evaluated + 2 * rows
        # Steps of ended rows change nothing, so a GPU need not be asked after each.
        code = 0 if step % check_every else ops.compacted()
    return calls, evaluated


def _far(w: Workspace, rows: int) -> bool:
    """Whether the end is many steps away, as where errors do not fall with the step."""
    control = w.control[:, :rows]
    rest = (control[Control.END] - control[Control.TIME]).abs()
    return bool((rest > FAR * control[Control.STEP].abs()).any())


def checked_again(w: Workspace, rows: int, call: Callable[[], Any], value: Any) -> Any:
    """A value of f as it is given again, of which no more may differ than a step tolerates."""
    first, again = torch.as_tensor(value, device=w.y.device).clone(), call()
    if isinstance(again, Tensor) and again.shape == first.shape and torch.equal(first, again):
        return again
    control, y = w.control[:, :rows, None], w.y[:rows]
    scale = control[Control.ATOL] + control[Control.RTOL] * y.abs()
    step, who = w.control[Control.STEP, :rows], w.count[Count.ROW, :rows]
    check_repeats("f", first.reshape(y.shape), again.reshape(y.shape), step, scale, who)
    return again
