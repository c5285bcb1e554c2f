"""`odeint`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.common.errors import nearest
from fastgen.common.tableau import Tableau
from fastgen.kernels.runge_kutta.contract import Status
from fastgen.ode import controller as controllers
from fastgen.ode import tableaus
from fastgen.ode.adjoint import AdjointOptions, solve_adjoint
from fastgen.ode.controller import Controller
from fastgen.ode.engine import NeedsGradientError, Raw, integrate
from fastgen.ode.events import Event, EventObserver
from fastgen.ode.fixed import solve_fixed
from fastgen.ode.problem import STEPS, Field, State, parameters_of, times_of, tolerance
from fastgen.ode.replay import CHECKPOINTS, Recorder, replay

GRADIENTS = ("through", "adjoint", "none")


@dataclass(frozen=True)
class Statistics:
    """What a solve cost.

    evaluations, accepted, rejected: int64 [B] (one entry with joint steps), a sample's own.
    calls: calls of f. rows: rows of all calls together, those of ended samples included where f
    was still handed them.
    """

    evaluations: Tensor
    accepted: Tensor
    rejected: Tensor
    calls: int
    rows: int


@dataclass(frozen=True)
class Solution:
    """The result of ``odeint(..., return_solution=True)``.

    ys: states [T, ...], in the structure of y0. status: int64 [B], values of `Status`. reached:
    float64 [B], the time where each sample ended: its last time, an event, or where it failed.
    stats: the cost. events: all crossings found, in order of discovery.
    """

    ys: Any
    status: Tensor
    reached: Tensor
    stats: Statistics
    events: tuple[Event, ...] = ()

    @property
    def success(self) -> Tensor:
        """Which samples reached their last time or a terminal event, bool [B]."""
        return (self.status == Status.DONE) | (self.status == Status.EVENT)


REASONS = {
    Status.MAX_STEPS: "max_steps={max_steps} steps were not enough; allow more, or loosen rtol and "
    "atol",
    Status.UNDERFLOW: "the step became too small for its time; loosen rtol and atol, use float64, "
    "or look for a discontinuity or stiffness there",
    Status.NON_FINITE: "f is not finite there, however short the step",
}


def odeint(
    f: Callable[..., Any],
    y0: Any,
    t: Sequence[float] | Tensor,
    *,
    rtol: float | Tensor = 1e-5,
    atol: float | Tensor = 1e-6,
    method: str = "dopri5",
    step: str = "per_sample",
    controller: str | Controller = "pi",
    first_step: float | Tensor | None = None,
    min_step: float = 0.0,
    max_step: float = math.inf,
    max_steps: int = 100_000,
    step_size: float | None = None,
    compact: bool | None = None,
    event: Callable[..., Any] | None = None,
    terminal: bool = True,
    event_tolerance: float = 1e-9,
    gradient: str = "through",
    parameters: Iterable[Tensor] | nn.Module | None = None,
    checkpoint: str = "none",
    snapshots: int = 8,
    adjoint_rtol: float | Tensor | None = None,
    adjoint_atol: float | Tensor | None = None,
    adjoint_method: str | None = None,
    adjoint_seminorm: bool = True,
    on_failure: str = "raise",
    return_solution: bool = False,
    backend: str | None = None,
    check_every: int | None = None,
    capture: bool = False,
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
        rtol, atol: tolerances, a number or one for each sample.
        method: of varying steps "dopri5", "tsit5", "dopri8", "bosh3", "fehlberg45", "fehlberg2",
            "adaptive_heun"; of fixed steps "euler", "midpoint", "heun", "rk4" (the 3/8 rule),
            "rk4_classic", "explicit_adams".
        step: "per_sample", or "joint": one step size and error norm for the whole state, which
            may then have any shape, and f is called with a 0-d t.
        controller: "i", "pi", "pid" or a `Controller`.
        first_step: size of the first step; None finds one (one more evaluation).
        min_step: shortest step, accepted whatever its error.
        max_step: longest step.
        max_steps: most attempts of one sample.
        step_size: for methods of fixed steps the longest step; None is one step between times.
        compact: True promises that f may be called with some samples only, whichever; samples that
            have ended are then left out. None does so where f takes ``rows``.
        event: a function (t, y) -> [B] or [B, E] whose changes of sign are events.
        terminal: whether a sample ends at its first event. All later outputs are its state there.
        event_tolerance: width of an event's bracket in time.
        gradient: "through" the accepted steps, the continuous "adjoint" (Chen et al. 2018, arXiv
            1806.07366), or "none". Only where gradients are enabled and something needs them.
        parameters: for the adjoint what f depends on, a module or tensors; those of a module are
            found.
        checkpoint: for "through" what is kept: "none" all, "step" states between steps,
            "binomial" at most ``snapshots`` states (Griewank and Walther 2000).
        adjoint_rtol, adjoint_atol, adjoint_method: for the way back; the default is the same.
        adjoint_seminorm: leave the parameters' gradients out of the error norm (Kidger et al.
            2021, arXiv 2009.09457). Per-sample steps cannot do otherwise.
        on_failure: "raise", or "return" the best state so far with a status for each sample.
        return_solution: return a `Solution` instead of the states.
        backend: "auto", "reference", "cpp" or "triton"; None reads FASTGEN_BACKEND.
        check_every: steps between two looks at the samples' states; each makes a GPU wait.
        capture: on a GPU record one attempted step, f included, as a CUDA graph, and replay it: f
            must never read a value back (.item(), branches that depend on data) and work in fixed
            memory, or the solve runs eagerly, with a warning. All samples are evaluated until the
            last has ended. Without gradients and events. On a CPU the step is called again.

    Returns:
        The states [T, ...] in the structure of y0, or a `Solution`.

    Raises:
        TypeError, ValueError: naming the argument.
        RuntimeError: naming the first sample that failed, its time, and the remedy.
    """
    for name, value, known in (
        ("step", step, STEPS),
        ("gradient", gradient, GRADIENTS),
        ("checkpoint", checkpoint, CHECKPOINTS),
        ("on_failure", on_failure, ("raise", "return")),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r}: {nearest(str(value), known)}")
    tableau = tableaus.find(method)
    adaptive = tableau is not None and tableau.adaptive
    if on_failure == "return" and not return_solution:
        raise ValueError("on_failure='return' needs return_solution=True, which has the status")
    if snapshots < 1:
        raise ValueError(f"snapshots={snapshots!r}: expected at least 1")
    _check_steps(method, adaptive, first_step, min_step, max_step, max_steps, step_size)
    state = State(y0, step == "joint")
    field = Field(f, state, compact)
    times = times_of(t, state.rows, state.joint, state.device)
    y = state.flat()
    tolerances = tolerance("rtol", rtol, state), tolerance("atol", atol, state)
    found = parameters_of(f, parameters)
    wanted = torch.is_grad_enabled() and gradient != "none"
    needed = wanted and (y.requires_grad or times.requires_grad or bool(found))
    if event is not None and (needed or not adaptive):
        raise ValueError(
            "event: found for methods of varying steps and without gradients; use "
            "gradient='none' or torch.no_grad()"
        )
    if capture and (event is not None or needed or not adaptive):
        raise ValueError(
            "capture=True: for methods of varying steps, without events and gradients; use "
            "gradient='none' or torch.no_grad()"
        )
    if not adaptive:
        if gradient == "adjoint" and needed:
            raise ValueError(
                f"method={method!r}: the adjoint takes a method of varying steps; use "
                "gradient='through'"
            )
        with torch.set_grad_enabled(wanted):
            ys, steps = solve_fixed(field, y, times, tableau, step_size)
        return _packed(state, ys, _fixed_raw(ys, times, steps, tableau), (), return_solution)
    assert tableau is not None
    sizes = controllers.find(controller).step_size(tableau.order, min_step, max_step, max_steps)
    observer: EventObserver | Recorder | None = None
    if event is not None:
        observer = EventObserver(event, state, terminal, event_tolerance)
    elif needed and gradient == "through":
        observer = Recorder()
    arguments = field, y.detach(), times, tableau, *tolerances, sizes, first_step, backend
    try:
        raw = integrate(*arguments, observer, check_every, wanted and not needed, capture)
    except NeedsGradientError:  # a closure over tensors that need gradients shows in its value
        if gradient == "adjoint" or event is not None or capture:
            raise ValueError(
                "f depends on tensors that need gradients and is no module: for the adjoint pass "
                "parameters=(...); with an event or capture=True use gradient='none'"
            ) from None
        needed, observer = True, Recorder()
        raw = integrate(*arguments, observer, check_every)
    if on_failure == "raise":
        check(raw, max_steps)
    ys = raw.ys
    if isinstance(observer, Recorder):
        ys = replay(field, y, times, tableau, observer, raw, checkpoint, snapshots)
    elif needed:
        options = AdjointOptions(
            tableaus.find(adjoint_method or method),
            tolerances[0]
            if adjoint_rtol is None
            else tolerance("adjoint_rtol", adjoint_rtol, state),
            tolerances[1]
            if adjoint_atol is None
            else tolerance("adjoint_atol", adjoint_atol, state),
            controllers.find(controller),
            (min_step, max_step, max_steps),
            adjoint_seminorm,
            backend,
        )
        ys = solve_adjoint(field, y, times, raw.ys, found, options)
    first = 2 if first_step is None else 1
    events = tuple(observer.found) if isinstance(observer, EventObserver) else ()
    return _packed(state, ys, raw, events, return_solution, tableau.stages - 1, first)


def _check_steps(
    method: str,
    adaptive: bool,
    first_step: float | Tensor | None,
    min_step: float,
    max_step: float,
    max_steps: int,
    step_size: float | None,
) -> None:
    if adaptive and step_size is not None:
        raise ValueError(
            f"step_size={step_size!r}: {method!r} chooses its own steps; use first_step or max_step"
        )
    if not adaptive and first_step is not None:
        raise ValueError(f"first_step={first_step!r}: {method!r} takes step_size instead")
    if step_size is not None and not 0 < step_size < math.inf:
        raise ValueError(f"step_size={step_size!r}: expected a positive number")
    if first_step is not None:
        size = torch.as_tensor(first_step)
        if not bool(((size > 0) & torch.isfinite(size)).all()):
            raise ValueError(f"first_step={first_step!r}: expected positive numbers")
    if not 0 <= min_step <= max_step or not max_step > 0:
        raise ValueError(
            f"min_step={min_step!r}, max_step={max_step!r}: expected 0 <= min_step <= max_step"
        )
    if max_steps < 1:
        raise ValueError(f"max_steps={max_steps!r}: expected at least 1")


def check(raw: Raw, max_steps: int) -> None:
    """Raise a RuntimeError that names the first sample that failed."""
    failed = (raw.status != Status.DONE) & (raw.status != Status.EVENT)
    if bool(failed.any()):
        sample = int(failed.nonzero()[0])
        reason = REASONS[Status(int(raw.status[sample]))].format(max_steps=max_steps)
        raise RuntimeError(
            f"sample {sample} stopped at t={float(raw.time[sample]):.9g} after "
            f"{int(raw.accepted[sample])} accepted and {int(raw.rejected[sample])} rejected steps "
            f"({int(failed.sum())} of {len(failed)} samples failed): {reason}; "
            "on_failure='return' gives the states so far"
        )


def _fixed_raw(ys: Tensor, times: Tensor, steps: int, tableau: Tableau | None) -> Raw:
    rows = ys.shape[1]
    whole = torch.full((rows,), steps, dtype=torch.int64, device=ys.device)
    done = torch.full_like(whole, Status.DONE)
    end = times.detach()[..., -1].expand(rows)
    calls = steps * (1 if tableau is None else tableau.stages)
    if tableau is None:  # the 3/8 rule starts it with three more each
        calls += 3 * min(steps, 3)
    return Raw(
        ys, ys[-1], end, done, whole, torch.zeros_like(whole), end - end, calls, calls * rows
    )


def _packed(
    state: State,
    ys: Tensor,
    raw: Raw,
    events: tuple[Event, ...],
    return_solution: bool,
    per_step: int | None = None,
    first: int = 0,
) -> Any:
    tree = state.tree(ys)
    if not return_solution:
        return tree
    attempts = raw.accepted + raw.rejected
    begun = attempts > 0
    evaluations = (
        (per_step * attempts + first * begun) if per_step else torch.full_like(attempts, raw.calls)
    )
    stats = Statistics(evaluations, raw.accepted, raw.rejected, raw.calls, raw.rows)
    return Solution(tree, raw.status, raw.time, stats, events)
