"""`odeint_adjoint`: gradients by a second solve, backwards in time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.common.derivatives import check_recorded, elsewhere
from fastgen.common.once import differentiable_once
from fastgen.common.transforms import check_untraced
from fastgen.integrations.torchdiffeq.events import moving_end
from fastgen.integrations.torchdiffeq.problem import (
    ADAPTIVE,
    CALLBACKS,
    Function,
    check_times,
    method_of,
    one_tolerance,
    options_of,
)
from fastgen.integrations.torchdiffeq.solve import odeint, solve, warn_unheard
from fastgen.ode.adjoint import Adjoint
from fastgen.ode.problem import StateLayout

SEMINORM = "seminorm"
ADJOINT = "_adjoint"  # ends the names of callbacks on the way back


def odeint_adjoint(
    func: Function,
    y0: Any,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Function | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """`odeint` whose gradients come from the continuous adjoint, in memory of O(1) in the steps.

    da/dt = -a^T df/dy, dL/dtheta = int a^T df/dtheta dt (Chen et al. 2018, arXiv 1806.07366).

    Args:
        func, y0, t, rtol, atol, method, options, event_fn: as of `odeint`.
        adjoint_rtol, adjoint_atol, adjoint_method: of the way back; None is the same.
        adjoint_options: of the way back; None is the same but for norm. norm="seminorm" leaves the
            parameters out of the error norm (Kidger et al. 2021, arXiv 2009.09457).
        adjoint_params: what func depends on; None takes the parameters of the module func.

    Raises:
        ValueError: without adjoint_params, for a func that is not a module. Without
            adjoint_options, for options and another method on the way back. And as `odeint`.
    """
    if adjoint_params is None and not isinstance(func, nn.Module):
        raise ValueError(
            "func must be an instance of nn.Module to specify the adjoint parameters; "
            "alternatively they can be specified explicitly via the `adjoint_params` argument. "
            "If there are no parameters then it is allowable to set `adjoint_params=()`."
        )
    way = method if adjoint_method is None else adjoint_method
    if way != method and options is not None and adjoint_options is None:
        raise ValueError(
            "If `adjoint_method != method` then we cannot infer `adjoint_options` from `options`. "
            "So as `options` has been passed then `adjoint_options` must be passed as well."
        )
    if adjoint_params is None:
        assert isinstance(func, nn.Module)
        adjoint_params = func.parameters()
    given = tuple(adjoint_params)
    check_untraced("odeint_adjoint", "use odeint", y0=y0, t=t, adjoint_params=given)
    parameters = tuple(p for p in given if p.requires_grad)
    back = dict((options if adjoint_options is None else adjoint_options) or {})
    if adjoint_options is None:
        back.pop("norm", None)
    norm = back.pop("norm", None)
    if norm not in (None, SEMINORM):
        raise ValueError(f"adjoint_options: norm={norm!r}: expected 'seminorm' or none")
    name, back_name = method_of(method), method_of(way)
    warn_unheard(back_name, func, ADJOINT)
    chosen, back = options_of(name, options), options_of(back_name, back)
    check_times(t, event_fn is not None)
    tolerances = one_tolerance("rtol", rtol), one_tolerance("atol", atol)
    back_tolerances = (
        tolerances[0] if adjoint_rtol is None else one_tolerance("adjoint_rtol", adjoint_rtol),
        tolerances[1] if adjoint_atol is None else one_tolerance("adjoint_atol", adjoint_atol),
    )
    if event_fn is not None:
        with torch.no_grad():
            found, ys = odeint(
                func, y0, t, rtol=rtol, atol=atol, method=method, options=options, event_fn=event_fn
            )
        if not torch.is_grad_enabled() or bool(found == t[0]):
            return found, ys
        t = torch.stack([t[0], found.detach()])
    if _shared(name, back_name, chosen, back):
        ys = solve(
            func,
            y0,
            t,
            name,
            chosen,
            tolerances,
            Adjoint(
                parameters,
                *back_tolerances,
                back_name,
                seminorm=norm == SEMINORM or chosen.get("step") == "per_sample",
            ),
        )
    else:
        if norm == SEMINORM and back_name in ADAPTIVE:
            raise ValueError(
                "adjoint_options: norm='seminorm' needs the same options on both ways, of a method "
                "of varying steps without step_t and jump_t; leave it out"
            )
        state = StateLayout(y0, joint=True)

        def flat_func(time: Tensor, y: Tensor) -> Tensor:
            return state.flat(func(time, state.tree(y[None])))[0]

        if hasattr(func, CALLBACKS[0]):
            flat_func.callback_step = (  # type: ignore[attr-defined]
                lambda time, y, h: func.callback_step(time, state.tree(y[None]), h)  # type: ignore[attr-defined]
            )
        told = getattr(func, CALLBACKS[0] + ADJOINT, None)
        forward = name, chosen, tolerances
        backward = back_name, back, back_tolerances
        apply: Function = _TwoMethodAdjoint.apply
        flat = apply(flat_func, told, forward, backward, t, state.flat()[0], *parameters)
        ys = state.tree(flat[:, None])
    if event_fn is None:
        return ys
    # As in torchdiffeq the states are those at a fixed time; `odeint_event` moves them, too.
    return moving_end(func, y0, t[0], event_fn, found, ys)[0], ys


def _shared(
    method: str, back_method: str, options: Mapping[str, Any], back: Mapping[str, Any]
) -> bool:
    """Whether `fastgen.odeint`'s own adjoint does what is asked for."""
    if not {method, back_method} <= set(ADAPTIVE):
        return False
    if any(o.get(name) is not None for o in (options, back) for name in ("step_t", "jump_t")):
        return False
    free = ("first_step", "norm")  # the way back finds its first step, and has its own norm
    kept = [{k: v for k, v in o.items() if k not in free} for o in (options, back)]
    return kept[0] == kept[1] and "first_step" not in set(back) - set(options)


class _TwoMethodAdjoint(torch.autograd.Function):
    """The adjoint for any two methods, with [y, a, dL/dtheta] as one tuple state."""

    @staticmethod
    def forward(
        ctx: Any,
        func: Function,
        told: Function | None,
        forward: tuple[Any, ...],
        backward: tuple[Any, ...],
        t: Tensor,
        y: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.func, ctx.told, ctx.way = func, told, backward
        with torch.no_grad():
            ys: Tensor = solve(func, y, t, *forward)
        ctx.save_for_backward(t, ys, y, *parameters)
        return ys.clone()

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        t, ys, _, *parameters = ctx.saved_tensors
        (given,) = gradients
        func = ctx.func

        def slope(time: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                y = state[0].detach().clone().requires_grad_()
                value = func(time.detach(), y)
                found: tuple[Tensor | None, ...] = (None,) * (1 + len(parameters))
                check_recorded("func", value, lambda: func(time.detach(), elsewhere(y)), "y")
                if value.requires_grad:
                    inputs = (y, *parameters)
                    found = torch.autograd.grad(value, inputs, -state[1], allow_unused=True)
            likes = (state[1], *parameters)
            zeros = (
                torch.zeros_like(x) if g is None else g for g, x in zip(found, likes, strict=True)
            )
            return (value.detach(), *zeros)

        if ctx.told is not None:  # the state as torchdiffeq has it: da/dt's integral comes first
            slope.callback_step = (  # type: ignore[attr-defined]
                lambda time, state, h: ctx.told(time, (torch.zeros_like(time), *state), h)
            )
        wanted = ctx.needs_input_grad[4]
        times = torch.zeros_like(t)
        a, totals = given[-1].clone(), tuple(torch.zeros_like(p) for p in parameters)
        with torch.no_grad():
            for j in range(len(t) - 1, 0, -1):
                if wanted:
                    times[j] = (func(t[j].to(ys.dtype), ys[j]) * given[j]).sum()
                span = torch.stack([t[j], t[j - 1]]).detach()
                _, back, *sums = solve(slope, (ys[j], a, *totals), span, *ctx.way)
                a, totals = back[-1] + given[j - 1], tuple(s[-1] for s in sums)
            if wanted:
                # Without the gradient of the first output, which does not move with t[0].
                times[0] = -(func(t[0].to(ys.dtype), ys[0]) * (a - given[0])).sum()
        return None, None, None, None, times if wanted else None, a, *totals
