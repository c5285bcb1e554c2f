"""`odeint_event`: the time of an event, with gradients by the implicit function theorem."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgen.common.derivatives import check_recorded, elsewhere
from fastgen.common.once import differentiable_once
from fastgen.common.transforms import check_untraced
from fastgen.integrations.torchdiffeq.problem import Function
from fastgen.integrations.torchdiffeq.solve import odeint
from fastgen.ode.problem import StateLayout

# Keeps the time's gradient finite where the trajectory touches the event without crossing it.
TINY = 1e-12


def odeint_event(
    func: Function,
    y0: Any,
    t0: Tensor,
    *,
    event_fn: Function,
    reverse_time: bool = False,
    odeint_interface: Function = odeint,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """The first time after t0 at which a value of event_fn changes its sign, and the states.

    With c(T, y(T)) = 0 the time's gradient is dT = -(dc/dy . dy) / (dc/dt + dc/dy . f), and the
    state moves with it by f dT (Chen, Amos and Nickel 2021, arXiv 2011.03902).

    Args:
        func, y0: as of `odeint`.
        t0: the start, a tensor of one element.
        event_fn: (t, y) -> tensor.
        reverse_time: look backwards in time.
        odeint_interface: `odeint` or `odeint_adjoint`, or a function like these.
        kwargs: handed to it.

    Returns:
        (time [], states [2, ...]), differentiable in y0, t0 and what func depends on (not in what
        only event_fn depends on).
    """
    check_untraced("odeint_event", "its time has reverse-mode gradients alone", y0=y0, t0=t0)
    start = t0.reshape(-1)
    t = torch.cat([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    found, ys = odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)
    state = StateLayout(y0, joint=True)
    found, last = moving_end(func, y0, t[0], event_fn, found, ys)
    end = state.tree(last[None])
    if state.single:
        return found, torch.cat([ys[:-1], end[None]])
    return found, tuple(torch.cat([y[:-1], e[None]]) for y, e in zip(ys, end, strict=True))


def moving_end(
    func: Function, y0: Any, start: Tensor, event_fn: Function, found: Tensor, ys: Any
) -> tuple[Tensor, Tensor]:
    """The event's time, and the state there in a row, with the gradients of an end that moves.

    All lead to ys at fixed time.
    """
    state = StateLayout(y0, joint=True)
    with torch.no_grad():
        signs = torch.sign(event_fn(start.to(state.dtype), y0))

    def event(time: Tensor, y: Tensor) -> Tensor:
        return torch.min(event_fn(time, state.tree(y[None])) * signs)

    def flat_func(time: Tensor, y: Tensor) -> Tensor:
        return state.flat(func(time, state.tree(y[None])))[0]

    parts = (ys,) if state.single else ys
    last = torch.cat([y[-1].reshape(-1) for y in parts])
    apply: Function = _Rerouted.apply
    moved: tuple[Tensor, Tensor] = apply(flat_func, event, found, last)
    return moved


class _Rerouted(torch.autograd.Function):
    """The identity on (T, y(T)), whose gradients all go to y(T) at fixed time."""

    @staticmethod
    def forward(
        ctx: Any, func: Function, event: Function, time: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.func, ctx.event = func, event
        ctx.save_for_backward(time, y)
        return time.detach().clone(), y.detach().clone()

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        time, y = (x.detach().clone().requires_grad_() for x in ctx.saved_tensors)
        time_grad, y_grad = gradients
        with torch.enable_grad():
            c = ctx.event(time.to(y.dtype), y)
            check_recorded("event_fn", c, lambda: ctx.event(time.to(y.dtype), elsewhere(y)), "y")
            inputs = (time, y)
            by_time, by_state = torch.autograd.grad(c, inputs, allow_unused=True)
        slope = ctx.func(time.detach().to(y.dtype), y.detach())
        by_state = torch.zeros_like(y) if by_state is None else by_state
        rate = (by_state * slope).sum() + (0.0 if by_time is None else by_time)
        total = time_grad + (y_grad * slope).sum()
        return None, None, None, y_grad - by_state * (total / (rate + TINY))
