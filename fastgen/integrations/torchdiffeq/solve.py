"""`odeint`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_function
from fastgen.common.memory import OwnMemory
from fastgen.common.transforms import to_list
from fastgen.integrations.torchdiffeq.asking import (
    in_callers_mode,
    listening,
    told_as,
    warn_unheard,
)
from fastgen.integrations.torchdiffeq.fixed import GridSolver, solve_scipy
from fastgen.integrations.torchdiffeq.problem import (
    ADAPTIVE,
    CALLBACKS,
    FOREVER,
    Function,
    check_times,
    method_of,
    one_tolerance,
    options_of,
    solver_options,
)
from fastgen.ode import Adjoint, Event, Execution, Solution, Status
from fastgen.ode import odeint as fastgen_odeint
from fastgen.ode.problem import StateLayout

REASONS = {
    Status.MAX_STEPS: "max_num_steps exceeded",
    Status.UNDERFLOW: "underflow in dt",
    Status.NON_FINITE: "non-finite values in state `y`",
}
# How often the horizon is doubled in search of an event.
DOUBLINGS = 60


def odeint(
    func: Function,
    y0: Any,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Function | None = None,
) -> Any:
    """Solve dy/dt = func(t, y), y(t[0]) = y0: torchdiffeq's `odeint` on `fastgen.odeint`.

    Steps are controlled as there (one step size for the whole state, integral control, the root
    mean square of the error, the largest over a tuple's tensors), but no step oversteps the last
    time. Differentiable in y0, t and all that func depends on.

    Args:
        func: called as func(t, y), t without axes, y like y0. Its tensors are buffers: clone what
            is to be kept.
        y0: a tensor or a tuple of tensors, float32 or float64, of any shapes.
        t: times [T], strictly increasing or decreasing.
        rtol, atol: tolerances, one number for the whole state.
        method: "dopri5" (None), "dopri8", "bosh3", "fehlberg2", "adaptive_heun", "tsit5",
            "fehlberg45"; "euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams",
            "implicit_adams" ("fixed_adams"); the implicit "implicit_euler", "implicit_midpoint",
            "trapezoid", "gl4", "gl6", "radauIIA3", "radauIIA5", "sdirk2", "trbdf2";
            "scipy_solver".
        options: of varying steps first_step, min_step, max_step, safety, ifactor, dfactor,
            max_num_steps, step_t, jump_t, norm, dtype (float64), fastgen's own: step="per_sample"
            (each sample's own steps; func gets t [B]) and controller. Of fixed steps step_size,
            grid_constructor, interp, perturb; of Adams' max_order (at most 12; None is 12, and 8 of
            the explicit ones, beyond which they are unstable) and max_iters, also of implicit
            methods; of scipy solver.
        event_fn: (t, y) -> tensor; the solve ends where a value changes its sign, however far, and
            t gives the start and the direction.

    Returns:
        States [T, ...] in the structure of y0; with event_fn (time [], states [2, ...]).

    Raises:
        ValueError, TypeError, AssertionError: for arguments, as torchdiffeq does; a ValueError for
            options that are not known or not supported.
        AssertionError: "max_num_steps exceeded", "underflow in dt", "non-finite values".
    """
    name = method_of(method)
    chosen = options_of(name, options)
    check_times(t, event_fn is not None)
    tolerances = one_tolerance("rtol", rtol), one_tolerance("atol", atol)
    if event_fn is not None:
        check_function("event_fn", event_fn)
        return _until_event(func, y0, t, name, chosen, tolerances, event_fn)
    return solve(func, y0, t, name, chosen, tolerances)


def solve(
    func: Function,
    y0: Any,
    t: Tensor,
    method: str,
    options: Mapping[str, Any],
    tolerances: tuple[float, float],
    gradient: str | Adjoint = "through",
) -> Any:
    """`odeint` with checked arguments; gradient: as of `fastgen.odeint`."""
    warn_unheard(method, func)
    if method not in ADAPTIVE:
        return _on_grid(func, y0, t, method, options, tolerances)
    stops = _stops(t, options)
    if not stops:
        return _varying(func, y0, t, method, options, tolerances, gradient)
    if options.get("step", "joint") != "joint":
        raise ValueError("options: step_t and jump_t need step='joint'")
    return _pieces(func, y0, t, method, options, tolerances, gradient, stops)


def _varying(
    func: Function,
    y0: Any,
    t: Tensor,
    method: str,
    options: Mapping[str, Any],
    tolerances: tuple[float, float],
    gradient: str | Adjoint,
) -> Any:
    chosen = solver_options(options)
    # torchdiffeq's limit is for the steps between two outputs, ours for all.
    chosen["max_steps"] = min(chosen["max_steps"] * max(1, len(t) - 1), FOREVER)
    told = Execution(on_attempt=listening(func))

    def solved(f: Function) -> Solution:
        return fastgen_odeint(
            f,
            y0,
            t,
            method=method,
            rtol=tolerances[0],
            atol=tolerances[1],
            on_failure="return",
            return_solution=True,
            gradient=gradient,
            execution=told,
            **chosen,
        )

    found = in_callers_mode(solved, func)
    raise_failure(found, chosen["max_steps"])
    return found.ys


def raise_failure(found: Solution, max_steps: int) -> None:
    """Raise torchdiffeq's AssertionError for a solve that failed."""
    failed = ~found.success
    if bool(failed.any()):
        sample = int(failed.nonzero()[0])
        reason = REASONS[Status(int(found.status[sample]))]
        steps = int((found.stats.accepted + found.stats.rejected)[sample])
        raise AssertionError(
            f"{reason} at t={float(found.reached[sample]):.9g} after {steps} steps "
            f"(of at most {max_steps})"
        )


def _stops(t: Tensor, options: Mapping[str, Any]) -> list[tuple[float, bool]]:
    """Times between t[0] and t[-1] where steps end, in order, and whether func jumps there."""
    found: list[tuple[float, bool]] = []
    for name in ("step_t", "jump_t"):
        given = options.get(name)
        if given is not None:
            times = to_list(torch.as_tensor(given, dtype=torch.float64, device="cpu").flatten())
            found += [(time, name == "jump_t") for time in times]
    if len({time for time, _ in found}) < len(found):
        raise ValueError("`step_t` and `jump_t` must not have any repeated elements between them.")
    start, end = to_list(t.detach()[[0, -1]])
    low, high = sorted((start, end))
    # A jump at an end counts too: func must not be asked on its other side.
    inside = [(s, jump) for s, jump in found if low < s < high or (jump and low <= s <= high)]
    return sorted(inside, reverse=start > end)


def _pieces(
    func: Function,
    y0: Any,
    t: Tensor,
    method: str,
    options: Mapping[str, Any],
    tolerances: tuple[float, float],
    gradient: str | Adjoint,
    stops: list[tuple[float, bool]],
) -> Any:
    """One solve between each two stops, func never asked on the other side of a jump."""
    jumps = {s for s, jump in stops if jump}
    known = t.detach().double()
    start, finish = to_list(known[[0, -1]])
    ends = [s for s, _ in stops if s not in (start, finish)]
    ahead = -1.0 if start > finish else 1.0
    outputs: list[Any] = [_leading(y0)]
    begin: Tensor = t[:1].double()
    for last in [*ends, finish]:
        within = ((known - start) * ahead > 0) & ((known - last) * ahead <= 0)
        inner = t[within].double()
        # The next piece starts at a constant time, also where t, which may need gradients, has it.
        end = torch.tensor([last], device="cpu").to(known)
        asked = on_one_side(func, start, last, jumps)
        whole = torch.cat([begin, inner, end])
        ys = _varying(asked, y0, whole, method, options, tolerances, gradient)
        outputs.append(_mapped(lambda y: y[1:-1], ys))
        y0, begin, start = _mapped(lambda y: y[-1], ys), end, last
        options = {k: v for k, v in options.items() if k != "first_step"}
    if isinstance(y0, Tensor):
        return torch.cat(outputs)
    return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))


def on_one_side(func: Function, begin: float, end: float, jumps: set[float]) -> Function:
    """func at times moved off begin and end, inwards, where it jumps there."""
    if not {begin, end} & jumps:
        return func

    def asked(t: Tensor, y: Any) -> Any:
        near = t.detach()
        if begin in jumps and near == begin:
            near = torch.nextafter(near, torch.full_like(near, end))
        elif end in jumps and near == end:
            near = torch.nextafter(near, torch.full_like(near, begin))
        return func(t + (near - t).detach(), y)

    return told_as(func, asked)


def _leading(y: Any) -> Any:
    return _mapped(lambda x: x[None], y)


def _mapped(function: Function, y: Any) -> Any:
    return function(y) if isinstance(y, Tensor) else tuple(function(x) for x in y)


def _on_grid(
    func: Function,
    y0: Any,
    t: Tensor,
    method: str,
    options: Mapping[str, Any],
    tolerances: tuple[float, float],
) -> Any:
    state = StateLayout(y0, joint=True)
    flat, f = _flattened(state, func)
    if method == "scipy_solver":
        ys = solve_scipy(f, flat, t, options, *tolerances)
    else:
        grid = _grid(state, f, func, method, options, tolerances)
        ys = grid.solve(flat, t)
    return ys if state.single else state.tree(ys[:, None])


def _grid(
    state: StateLayout,
    f: Function,
    func: Function,
    method: str,
    options: Mapping[str, Any],
    tolerances: tuple[float, float],
) -> GridSolver:
    options = dict(options)
    constructor = options.get("grid_constructor")
    if constructor is not None and not state.single:
        options["grid_constructor"] = lambda _, y, t: constructor(func, state.tree(y[None]), t)
    grid = GridSolver(f, method, options, *tolerances)
    if hasattr(func, CALLBACKS[0]):

        def callback(t: Tensor, y: Tensor, h: Tensor) -> None:
            func.callback_step(t, y if state.single else state.tree(y[None]), h)  # type: ignore[attr-defined]

        grid.callback = callback
    return grid


def _flattened(state: StateLayout, func: Function) -> tuple[Tensor, Function]:
    """One tensor and a function of it: the state itself, or a tuple's elements in a row."""
    own: Callable[[Any], Tensor] = OwnMemory()
    if state.single:
        return state.leaves[0], lambda t, y: own(func(t, y))

    def f(t: Tensor, y: Tensor) -> Tensor:
        return own(state.flat(func(t, state.tree(y[None])))[0])

    return state.flat()[0], f


def _until_event(
    func: Function,
    y0: Any,
    t: Tensor,
    method: str,
    options: Mapping[str, Any],
    tolerances: tuple[float, float],
    event_fn: Function,
) -> tuple[Tensor, Any]:
    if method == "scipy_solver":
        raise ValueError("event_fn: 'scipy_solver' finds no events; choose another method")
    if options.get("step", "joint") != "joint":
        raise ValueError("event_fn: one event ends the whole state; options step must be 'joint'")
    for name in ("step_t", "jump_t"):
        if options.get(name) is not None:
            raise ValueError(f"options: {name} is not supported with event_fn; use max_step")
    state = StateLayout(y0, joint=True)
    with torch.no_grad():
        signs = torch.sign(event_fn(t[0].to(state.dtype), y0))

    def event(time: Tensor, y: Any) -> Tensor:
        return torch.min(event_fn(time, y) * signs)

    ahead = 1 if t[1] > t[0] else -1
    if bool((signs == 0).any()):
        found, last = t[0].detach(), y0
    elif method in ADAPTIVE:

        def looked(f: Function) -> tuple[Tensor, Any]:
            with torch.no_grad():
                return _horizons(f, y0, t.detach(), method, options, tolerances, event)

        found, last = in_callers_mode(looked, func)
        if torch.is_grad_enabled() and _depends(func, y0, t, state.dtype):
            # Solve again to the time now known, this time with gradients.
            reached = torch.stack([t[0].double(), found.double()])
            ys = solve(func, y0, reached, method, options, tolerances)
            last = _mapped(lambda y: y[-1], ys)
    else:
        flat, f = _flattened(state, func)
        grid = _grid(state, f, func, method, options, tolerances)

        def flat_event(time: Tensor, y: Tensor) -> Tensor:
            return event(time, y if state.single else state.tree(y[None]))

        found, last = grid.until(flat, t[0], ahead, flat_event)
        last = last if state.single else state.tree(last[None])
    if state.single:
        return found.to(t), torch.stack([y0, last])
    pairs = zip(y0, last, strict=True)
    return found.to(t), tuple(torch.stack(pair) for pair in pairs)


def _depends(func: Function, y0: Any, t: Tensor, dtype: torch.dtype) -> bool:
    """Whether the solution may need gradients: of its start, its times or func's value."""
    value = func(t[0].to(dtype), y0)
    leaves = itertools.chain(*((x,) if isinstance(x, Tensor) else x for x in (y0, value)))
    return t.requires_grad or any(x.requires_grad for x in leaves)


def _horizons(
    func: Function,
    y: Any,
    t: Tensor,
    method: str,
    options: Mapping[str, Any],
    tolerances: tuple[float, float],
    event: Function,
) -> tuple[Tensor, Any]:
    """(time, state) of the first event, looked for over twice the time again and again."""
    chosen = solver_options(options)
    left = chosen["max_steps"]
    begin, length = float(t[0]), float(t[1] - t[0])
    for _ in range(DOUBLINGS):
        found = fastgen_odeint(
            func,
            y,
            torch.tensor([begin, begin + length], dtype=torch.float64, device=t.device),
            method=method,
            rtol=tolerances[0],
            atol=tolerances[1],
            event=Event(event, tolerance=tolerances[1]),
            on_failure="return",
            return_solution=True,
            gradient="none",
            execution=Execution(on_attempt=listening(func)),
            **{**chosen, "max_steps": left},
        )
        raise_failure(found, left)
        if found.events:
            first = found.events[0]
            return torch.tensor(first.time, dtype=torch.float64, device=t.device), first.state
        left -= int((found.stats.accepted + found.stats.rejected)[0])
        assert left > 0, f"max_num_steps exceeded: no event until t={begin + length:.9g}"
        y = _mapped(lambda x: x[-1], found.ys)
        begin, length, chosen["first_step"] = begin + length, 2 * length, None
    raise AssertionError(f"no event until t={begin:.9g}")
