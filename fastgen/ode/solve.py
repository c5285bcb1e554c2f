"""`odeint`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, overload

import torch
from torch import Tensor

from fastgen.common.checks import check_at_least, check_choice, known_arguments
from fastgen.common.error_control import ErrorControlled, method_by_name
from fastgen.common.step_size import Controller
from fastgen.common.transforms import transforming
from fastgen.common.typed import check_argument
from fastgen.ode import tableaus
from fastgen.ode.adjoint import Adjoint, solve_adjoint
from fastgen.ode.compiled import CompiledField
from fastgen.ode.engine import NeedsGradientError, Observer, integrate
from fastgen.ode.events import Event, EventObserver
from fastgen.ode.execution import Execution
from fastgen.ode.fixed import solve_fixed
from fastgen.ode.norms import Norm
from fastgen.ode.problem import (
    STEPS,
    Field,
    StateLayout,
    accepts_rows,
    parameters_of,
    times_of,
    tolerance,
    unpadded,
)
from fastgen.ode.refusals import (
    CONTROLLER,
    check_compile,
    check_method,
    check_norm,
    check_special,
    check_transforms,
)
from fastgen.ode.replay import Recorder, Through, replay
from fastgen.ode.solution import Solution, check, outcome_of_fixed_steps, solution
from fastgen.ode.steps import Several, StepLog
from fastgen.ode.transformed import on_plain_memory
from fastgen.ode.watching import Accepted, AttemptObserver, Watcher

GRADIENTS: dict[str, Through | Adjoint | None] = {
    "through": Through(),
    "adjoint": Adjoint(),
    "none": None,
}
RTOL, ATOL = 1e-5, 1e-6
EXECUTION = Execution()
State = TypeVar("State")


@overload
def odeint(
    f: Callable[..., Any],
    y0: State,
    t: Sequence[float] | Tensor,
    *,
    rtol: float | Tensor | None = None,
    atol: float | Tensor | None = None,
    method: str | ErrorControlled[...] = "dopri5",
    step: str = "per_sample",
    step_size: float | None = None,
    first_step: float | Tensor | None = None,
    max_step: float | None = None,
    max_steps: int = 100_000,
    controller: str | Controller = CONTROLLER,
    norm: Norm | None = None,
    event: Callable[..., Any] | Event | None = None,
    callback: Callable[[Accepted], Any] | None = None,
    gradient: str | Through | Adjoint = "through",
    mask: Any = None,
    on_failure: str = "raise",
    return_solution: Literal[False] = False,
    backend: str | None = None,
    capture: bool = False,
    compile: bool = False,
    execution: Execution = EXECUTION,
) -> State: ...
@overload
def odeint(
    f: Callable[..., Any],
    y0: State,
    t: Sequence[float] | Tensor,
    *,
    rtol: float | Tensor | None = None,
    atol: float | Tensor | None = None,
    method: str | ErrorControlled[...] = "dopri5",
    step: str = "per_sample",
    step_size: float | None = None,
    first_step: float | Tensor | None = None,
    max_step: float | None = None,
    max_steps: int = 100_000,
    controller: str | Controller = CONTROLLER,
    norm: Norm | None = None,
    event: Callable[..., Any] | Event | None = None,
    callback: Callable[[Accepted], Any] | None = None,
    gradient: str | Through | Adjoint = "through",
    mask: Any = None,
    on_failure: str = "raise",
    return_solution: Literal[True],
    backend: str | None = None,
    capture: bool = False,
    compile: bool = False,
    execution: Execution = EXECUTION,
) -> Solution: ...
@overload
def odeint(
    f: Callable[..., Any],
    y0: State,
    t: Sequence[float] | Tensor,
    *,
    rtol: float | Tensor | None = None,
    atol: float | Tensor | None = None,
    method: str | ErrorControlled[...] = "dopri5",
    step: str = "per_sample",
    step_size: float | None = None,
    first_step: float | Tensor | None = None,
    max_step: float | None = None,
    max_steps: int = 100_000,
    controller: str | Controller = CONTROLLER,
    norm: Norm | None = None,
    event: Callable[..., Any] | Event | None = None,
    callback: Callable[[Accepted], Any] | None = None,
    gradient: str | Through | Adjoint = "through",
    mask: Any = None,
    on_failure: str = "raise",
    return_solution: bool,
    backend: str | None = None,
    capture: bool = False,
    compile: bool = False,
    execution: Execution = EXECUTION,
) -> State | Solution: ...
@known_arguments(
    controller=Controller, event=Event, gradient=(Through, Adjoint), execution=Execution
)
@method_by_name
def odeint(
    f: Callable[..., Any],
    y0: Any,
    t: Sequence[float] | Tensor,
    *,
    rtol: float | Tensor | None = None,
    atol: float | Tensor | None = None,
    method: Any = "dopri5",
    step: str = "per_sample",
    step_size: float | None = None,
    first_step: float | Tensor | None = None,
    max_step: float | None = None,
    max_steps: int = 100_000,
    controller: str | Controller = CONTROLLER,
    norm: Norm | None = None,
    event: Callable[..., Any] | Event | None = None,
    callback: Callable[[Accepted], Any] | None = None,
    gradient: str | Through | Adjoint = "through",
    mask: Any = None,
    on_failure: str = "raise",
    return_solution: bool = False,
    backend: str | None = None,
    capture: bool = False,
    compile: bool = False,
    execution: Execution = EXECUTION,
) -> Any:
    """Solve dy/dt = f(t, y), y(t_0) = y0, and return y at all times t: [T, ...].

    Every sample has its own step sizes, acceptance and statistics: what it becomes does not
    depend, not in a single bit, on what else is in the batch (where f treats samples separately).
    Sample b's error e over a step is accepted where

        sqrt(mean((e / (atol + rtol max(|y|, |y'|)))^2)) <= 1,

    the largest of the means over each tensor of y0. No step oversteps a sample's last time; times
    in between are read off an interpolant (4th order for dopri5, tsit5 and fehlberg45, 5th for
    dopri8, 3rd for bosh3).

    Args:
        f: called as f(t, y) with t [B] and y like y0. The tensors are buffers: clone what is to
            be kept. A function with a keyword argument ``rows`` is told which samples it is
            called with (int64 [A]) and is not called for those that have ended.
        y0: a tensor [B, ...], or any tuple, list or dict of such, float32 or float64.
        t: T times in order, up or down, [T], or [B, T] with an interval for each sample.
        rtol, atol: tolerances of varying steps, a number or one for each sample; None is 1e-5 and
            1e-6. Methods of fixed steps have none.
        method: of varying steps "dopri5", "tsit5", "dopri8", "bosh3", "fehlberg45", "fehlberg2",
            "adaptive_heun"; of fixed steps "euler", "midpoint", "heun", "rk4" (the 3/8 rule),
            "rk4_classic", "explicit_adams". Or one of varying steps with its options,
            ``fastgen.solvers.dopri5(rtol=1e-8)``.
        step: "per_sample", or "joint": one step size and error norm for the whole state, which
            may then have any shape, and f is called with a 0-d t.
        step_size: for methods of fixed steps the longest step; None is one step between times.
        first_step, max_step: short for the controller's: size of the first step (None finds one,
            for one more evaluation) and the longest step.
        max_steps: most attempts of one sample.
        controller: of varying steps: "i", "pi", "pid" or a `Controller`.
        norm: of varying steps another norm than the above: called with e / (atol + rtol max(|y|,
            |y'|)), like y0 and without gradients, it returns what must be at most 1, [B] or with
            joint steps []. Then the rest of the step is done by plain PyTorch, not by kernels.
        event: a function (t, y) -> [B] or [B, E] whose changes of sign are events, at the first
            of which a sample ends; or an `Event`.
        callback: called with an `Accepted` after every step in which a sample moved: times, states
            and slopes. What it is shown are copies, without gradients.
        gradient: "through" the accepted steps or `Through`; the continuous "adjoint" (Chen et al.
            2018, arXiv 1806.07366) or `Adjoint`; or "none". Only where gradients are enabled and
            something needs them. Forward-mode derivatives and `torch.func` go "through".
        mask: for samples of different lengths, True where an element of y0 is live: any shape that
            broadcasts to it; of several tensors one each, in y0's structure, or None. Padding is 0,
            for f too, stays 0 and does not count in errors: the steps are those without it, up to
            the rounding of sums.
        on_failure: "raise", or "return" the best state so far with a status for each sample.
        return_solution: return a `Solution` instead of the states.
        backend: "auto", "reference", "cpp" or "triton"; None reads FASTGEN_BACKEND.
        capture: on a GPU record one attempted step, f included, as a CUDA graph, and replay it: f
            must never read a value back (.item(), branches that depend on data) and work in fixed
            memory, or the solve runs eagerly, with a warning. All samples are evaluated until the
            last has ended. Without gradients and events. On a CPU the step is called again.
        compile: evaluate f as code of `torch.compile`, one graph without breaks, for any number of
            samples. It is compiled in the first solve, and again for another f, dtype or shape of
            a sample, or one sample alone; what f depends on is looked at once in a solve. f must
            do nothing but compute. Steps and gradients are as without it, up to f's rounding.
        execution: with which samples f is called.

    Returns:
        The states [T, ...] in the structure of y0, or a `Solution`.

    Raises:
        TypeError, ValueError: naming the argument.
        RuntimeError: naming the first sample that failed, its time, and the remedy.

    Example:
        >>> y0 = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
        >>> y = fastgen.odeint(lambda t, y: -y, y0, [0.0, 1.0], rtol=1e-9, atol=1e-9)
        >>> y.shape
        torch.Size([2, 2, 1])
        >>> y[-1, 0].item() - math.exp(-1) < 1e-8
        True
    """
    check_choice("step", step, STEPS)
    check_choice("on_failure", on_failure, ("raise", "return"))
    check_at_least("max_steps", max_steps, 1)
    check_argument("return_solution", return_solution, bool)
    if on_failure == "return" and not return_solution:
        raise ValueError("on_failure='return' needs return_solution=True, which has the status")
    tableau = tableaus.find(method)
    adaptive = tableau is not None and tableau.adaptive
    execution.check(adaptive, capture, return_solution)
    way = _way(gradient)
    limits: dict[str, Any] = {"first_step": first_step, "max_step": max_step}
    limits = {name: value for name, value in limits.items() if value is not None}
    fixed = {name: value for name, value in (("rtol", rtol), ("atol", atol)) if value is not None}
    check_method(method, adaptive, step_size, {**limits, **fixed}, controller, way)
    check_compile(compile, adaptive)
    rtol, atol = RTOL if rtol is None else rtol, ATOL if atol is None else atol
    forward = transforming()
    if forward:
        check_transforms(way, adaptive, y0, t, compile)

    compact, given, joint = execution.compact, f, step == "joint"
    state = StateLayout(y0, joint)
    if mask is not None:
        given, y0, state = unpadded(f, y0, mask, joint)
        compact = accepts_rows(f) if compact is None else compact
    field = CompiledField(given, state, compact, f) if compile else Field(given, state, compact)
    times = times_of(t, state.rows, state.joint, state.device)
    y = state.flat().clone()  # f is never handed the caller's own tensor
    tolerances = tolerance("rtol", rtol, state), tolerance("atol", atol, state)
    parameters = parameters_of(f, way.parameters if isinstance(way, Adjoint) else None)
    wanted = (forward or torch.is_grad_enabled()) and way is not None
    needed = wanted and (forward or y.requires_grad or times.requires_grad or bool(parameters))
    check_special(event is not None, callback is not None, capture, needed, adaptive)
    check_norm(norm, adaptive, capture)
    watcher = None if callback is None else Watcher(state, callback)

    if not adaptive:
        if isinstance(way, Adjoint) and needed:
            raise ValueError(
                f"method={method!r}: the adjoint takes a method of varying steps; use "
                "gradient='through'"
            )
        with torch.set_grad_enabled(wanted):
            ys, steps = solve_fixed(field, y, times, tableau, step_size, watcher)
        found = solution(state, ys, outcome_of_fixed_steps(ys, times, steps, tableau), times=times)
        return found if return_solution else found.ys

    assert tableau is not None
    control = Controller.of(controller, **limits)
    observer: EventObserver | Recorder | None = None
    if event is not None:
        observer = EventObserver(event if isinstance(event, Event) else Event(event), state)
    elif needed and isinstance(way, Through):
        observer = Recorder()
    rule = control.step_size(tableau.order, max_steps), control.first_step
    seen, log = _seen(observer, watcher, execution, state)
    if forward:
        outcome = on_plain_memory(field, y0, t, tableau, (rtol, atol), rule, backend, seen, norm)
    else:
        problem = field, y.detach(), times, tableau, *tolerances
        # A closure over tensors that need gradients shows them in its value alone.
        hidden = isinstance(way, Adjoint) and way.parameters is None and not parameters
        watch = wanted and (not needed or hidden)
        try:
            outcome = integrate(
                *problem, *rule, backend, seen, execution.check_every, watch, capture, norm
            )
        except NeedsGradientError:
            if not isinstance(way, Through) or event is not None or capture:
                raise ValueError(
                    "f depends on tensors that need gradients but is not a module: for the adjoint "
                    "pass gradient=Adjoint(parameters=(...)); with an event or capture=True use "
                    "gradient='none'"
                ) from None
            needed, observer = True, Recorder()
            seen, log = _seen(observer, watcher, execution, state)
            outcome = integrate(*problem, *rule, backend, seen, execution.check_every, norm=norm)
    if on_failure == "raise":
        check(outcome, max_steps)
    ys = outcome.ys
    if isinstance(observer, Recorder):
        assert isinstance(way, Through)
        ys = replay(field, y, times, tableau, observer, outcome, way)
    elif needed:
        assert isinstance(way, Adjoint)
        back = way.resolved(tableau, tolerances, control, max_steps, state)
        ys = solve_adjoint(field, y, times, ys, parameters, back, backend)
    if not return_solution:
        return state.tree(ys)
    events = tuple(observer.found) if isinstance(observer, EventObserver) else ()
    # The first slope, and another one where the first step was looked for.
    begun = 2 if control.first_step is None else 1
    steps_made = None if log is None else log.steps(y.device)
    return solution(
        *(state, ys, outcome, events, tableau.stages - 1, begun), times=times, steps=steps_made
    )


def _seen(
    observer: Observer | None, watcher: Watcher | None, execution: Execution, state: StateLayout
) -> tuple[Observer | None, StepLog | None]:
    """Who sees the steps, and the log of them if there is one."""
    log = StepLog() if execution.record_steps else None
    told = None if execution.on_attempt is None else AttemptObserver(state, execution.on_attempt)
    looking = tuple([o for o in (observer, watcher, log, told) if o is not None])
    return (Several(looking) if len(looking) > 1 else next(iter(looking), None)), log


def _way(gradient: str | Through | Adjoint) -> Through | Adjoint | None:
    if isinstance(gradient, (Through, Adjoint)):
        return gradient
    return GRADIENTS[check_choice("gradient", gradient, GRADIENTS)]
