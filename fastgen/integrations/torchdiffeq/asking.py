"""How torchdiffeq's users are asked and told: the right-hand side, and callbacks of steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen.integrations.torchdiffeq.problem import ADAPTIVE, CALLBACKS, Function
from fastgen.ode import Attempt


def in_callers_mode(solve: Callable[[Function], Any], func: Function) -> Any:
    """solve(func); where func needs gradients enabled, again with all evaluations like that.

    torchdiffeq evaluates in its caller's mode, so a field may call `torch.autograd.grad` without
    enabling gradients itself. The solver looks for steps without gradients, which is faster.
    """
    try:
        return solve(func)
    except RuntimeError as error:
        if not torch.is_grad_enabled() or "does not require grad" not in str(error):
            raise

    def asked(t: Tensor, y: Any) -> Any:
        if torch.is_grad_enabled():
            return func(t, y)
        with torch.enable_grad():
            value = func(t, y)
        if isinstance(value, Tensor):
            return value.detach()
        return tuple(x.detach() if isinstance(x, Tensor) else x for x in value)

    return solve(told_as(func, asked))


def told_as(func: Function, asked: Function) -> Function:
    """A function in func's place, told of steps as func is."""
    for name in CALLBACKS:
        if hasattr(func, name):
            setattr(asked, name, getattr(func, name))
    return asked


def listening(func: Function) -> Callable[[Attempt], None] | None:
    """What calls func's own callbacks with an attempted step, or None if it has none."""
    step, accepted, refused = (getattr(func, name, None) for name in CALLBACKS)
    if step is accepted is refused is None:
        return None

    def told(attempt: Attempt) -> None:
        t, size = attempt.times[0], attempt.sizes[0]
        after = accepted if bool(attempt.taken[0]) else refused
        for callback in (step, after):
            if callback is not None:
                callback(t, attempt.state, size)

    return told


def warn_unheard(method: str, func: Function, suffix: str = "") -> None:
    """Warn of callbacks that the method does not call: fixed steps have callback_step alone."""
    names = [name + suffix for name in CALLBACKS if hasattr(func, name + suffix)]
    if method in ADAPTIVE:
        return
    if method != "scipy_solver":
        names = [name for name in names if name != CALLBACKS[0] + suffix]
    if names:
        warnings.warn(
            f"Solver '{method}' does not support callbacks {set(names)}; methods of fixed steps "
            f"call {CALLBACKS[0] + suffix}",
            stacklevel=4,
        )
