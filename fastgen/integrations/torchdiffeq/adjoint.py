"""`odeint_adjoint`: gradients by a second solve, backwards in time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.common.derivatives import check_recorded, elsewhere
from fastgen.common.once import differentiable_once
from fastgen.common.transforms import check_untraced
from fastgen.integrations.torchdiffeq.asking import warn_unheard
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
from fastgen.integrations.torchdiffeq.solve import odeint, solve
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
            parameters out of the error norm (Kidger et al. 2021, arXiv 2009.09457); a function is
            called with ``(0, *y, *a, *gradients)``, the last of the parameters.
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
    if not (norm is None or norm == SEMINORM or callable(norm)):
        raise ValueError(f"adjoint_options: norm={norm!r}: expected 'seminorm', a function or none")
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
    told = _told(func)
    own = callable(norm) or chosen.get("norm") is not None or told
    if not own and _shared(name, back_name, chosen, back):
        per_sample = chosen.get("step") == "per_sample"
        way_back = Adjoint(
            parameters, *back_tolerances, back_name, seminorm=norm == SEMINORM or per_sample
        )
        ys = solve(func, y0, t, name, chosen, tolerances, way_back)
    else:
        state = StateLayout(y0, joint=True)
        if back_name in ADAPTIVE:
            back["norm"] = _norm_back(norm, chosen.get("norm"), state)
        forward = name, chosen, tolerances
        backward = back_name, back, back_tolerances
        apply: Function = _TwoMethodAdjoint.apply
        leaves = apply(func, told, state, forward, backward, t, *state.leaves, *parameters)
        ys = leaves[0] if state.single else leaves
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


def _told(func: Function) -> dict[str, Function]:
    """The callbacks of the way back, by the names that they have on the way there."""
    found = {name: getattr(func, name + ADJOINT, None) for name in CALLBACKS}
    return {name: callback for name, callback in found.items() if callback is not None}


def _norm_back(norm: Any, state_norm: Function | None, state: StateLayout) -> Function | None:
    """The norm of (*y, *a, *gradients of parameters), None for the largest of their means.

    torchdiffeq gives a norm of the user's the time's part first, which is not solved for here: 0.
    """
    if norm is None and state_norm is None:
        return None
    size = len(state.leaves)

    def of_state(leaves: tuple[Tensor, ...]) -> Tensor:
        if state_norm is not None:
            return torch.as_tensor(state_norm(leaves[0] if state.single else leaves)).abs()
        return largest(leaves)

    def found(leaves: tuple[Tensor, ...]) -> Tensor:
        if callable(norm):
            return torch.as_tensor(norm((leaves[0].new_zeros(()), *leaves)))
        parts = [of_state(leaves[:size]), of_state(leaves[size : 2 * size])]
        if norm != SEMINORM and len(leaves) > 2 * size:
            parts.append(largest(leaves[2 * size :]))
        return torch.stack([p.double() for p in parts]).amax()

    return found


def largest(leaves: tuple[Tensor, ...]) -> Tensor:
    """The largest root mean square of some tensors, of which the empty ones have none."""
    means = [x.double().square().mean().sqrt() for x in leaves if x.numel()]
    return torch.stack(means).amax() if means else torch.zeros((), dtype=torch.float64)


class _TwoMethodAdjoint(torch.autograd.Function):
    """The adjoint for any two methods and norms, with (*y, *a, *dL/dtheta) as one tuple state."""

    @staticmethod
    def forward(
        ctx: Any,
        func: Function,
        told: dict[str, Function],
        state: StateLayout,
        forward: tuple[Any, ...],
        backward: tuple[Any, ...],
        t: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.func, ctx.told, ctx.state, ctx.way = func, told, state, backward
        size = len(state.leaves)
        y = [x.detach() for x in tensors[:size]]
        with torch.no_grad():
            ys = solve(func, y[0] if state.single else tuple(y), t, *forward)
        found = (ys,) if state.single else tuple(ys)
        ctx.save_for_backward(t, *found, *tensors[size:])
        return tuple(x.clone() for x in found)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        t, *saved = ctx.saved_tensors
        state, func = ctx.state, ctx.func
        size = len(state.leaves)
        ys, parameters = saved[:size], tuple(saved[size:])

        def values(time: Tensor, y: list[Tensor]) -> tuple[Tensor, ...]:
            found = func(time, y[0] if state.single else tuple(y))
            return (found,) if state.single else tuple(found)

        def slope(time: Tensor, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            a = leaves[size : 2 * size]
            with torch.enable_grad():
                y = [x.detach().clone().requires_grad_() for x in leaves[:size]]
                value = values(time.detach(), y)
                for n, x in enumerate(value):

                    def again(n: int = n) -> Tensor:
                        return values(time.detach(), [elsewhere(v) for v in y])[n]

                    check_recorded("func", x, again, "y")
                inputs = (*y, *parameters)
                known = [(x, -b) for x, b in zip(value, a, strict=True) if x.requires_grad]
                found: tuple[Tensor | None, ...] = (None,) * len(inputs)
                if known:
                    outputs, weights = zip(*known, strict=True)
                    found = torch.autograd.grad(outputs, inputs, weights, allow_unused=True)
            zeros = (
                torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)
            )
            return (*(x.detach() for x in value), *zeros)

        for name, callback in ctx.told.items():
            setattr(slope, name, _as_torchdiffeq(callback, state))

        def rate(j: int, a: list[Tensor]) -> Tensor:
            value = values(t[j].to(state.dtype), [y[j] for y in ys])
            return torch.stack([(x * b).sum() for x, b in zip(value, a, strict=True)]).sum()

        wanted = ctx.needs_input_grad[5]
        times = torch.zeros_like(t)
        a, totals = [g[-1].clone() for g in gradients], tuple(map(torch.zeros_like, parameters))
        with torch.no_grad():
            for j in range(len(t) - 1, 0, -1):
                if wanted:
                    times[j] = rate(j, [g[j] for g in gradients])
                span = torch.stack([t[j], t[j - 1]]).detach()
                start = (*(y[j] for y in ys), *a, *totals)
                found = [x[-1] for x in solve(slope, start, span, *ctx.way)]
                a = [x + g[j - 1] for x, g in zip(found[size : 2 * size], gradients, strict=True)]
                totals = tuple(found[2 * size :])
            if wanted:
                # Without the gradient of the first output, which does not move with t[0].
                times[0] = -rate(0, [x - g[0] for x, g in zip(a, gradients, strict=True)])
        return (None,) * 5 + (times if wanted else None, *a, *totals)


def _as_torchdiffeq(callback: Function, state: StateLayout) -> Function:
    """A callback that is told the state as torchdiffeq has it: (0, y, a, *gradients).

    0 stands for da/dt's integral; the tensors of a tuple are in a row.
    """
    size = len(state.leaves)

    def told(time: Tensor, leaves: tuple[Tensor, ...], h: Tensor) -> None:
        pairs = [leaves[:size], leaves[size : 2 * size]]
        parts = [x[0] if state.single else state.flat(x)[0] for x in pairs]
        callback(time, (torch.zeros_like(time), *parts, *leaves[2 * size :]), h)

    return told
