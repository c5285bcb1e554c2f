"""Checked arguments: torchdiffeq's methods and options, and what fastgen makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_function, check_mapping
from fastgen.common.errors import nearest
from fastgen.common.transforms import to_list
from fastgen.integrations.torchdiffeq.implicit import TABLEAUS as IMPLICIT_TABLEAUS
from fastgen.ode import Controller

Function = Callable[..., Any]

ADAPTIVE = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun", "tsit5", "fehlberg45")
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4")
ADAMS = ("explicit_adams", "implicit_adams", "fixed_adams")
IMPLICIT = tuple(IMPLICIT_TABLEAUS)
METHODS = (*ADAPTIVE, *FIXED, *IMPLICIT, *ADAMS, "scipy_solver")

CONTROL_OPTIONS = ("first_step", "min_step", "max_step", "safety", "ifactor", "dfactor")
ADAPTIVE_OPTIONS = (
    *CONTROL_OPTIONS,
    "max_num_steps",
    "dtype",
    "step_t",
    "jump_t",
    "norm",
    "step",
    "controller",
)
FIXED_OPTIONS = ("step_size", "grid_constructor", "interp", "perturb", "norm")
ADAMS_OPTIONS = (*FIXED_OPTIONS, "max_iters", "max_order")
IMPLICIT_OPTIONS = (*FIXED_OPTIONS, "max_iters")
SCIPY_OPTIONS = ("solver", "min_step", "max_step", "norm")
CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")
FOREVER = 2**31 - 1


def method_of(method: str | None) -> str:
    """The method, "dopri5" for None; a ValueError for an unknown name."""
    if method is None:
        return "dopri5"
    if method not in METHODS:
        raise ValueError(f'Invalid method "{method}": {nearest(str(method), METHODS)}')
    return method


def options_of(method: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy of the options, of which each is known to the method.

    Raises:
        ValueError: for others (torchdiffeq warns and goes on).
    """
    known: tuple[str, ...] = FIXED_OPTIONS
    if method in ADAPTIVE:
        known = ADAPTIVE_OPTIONS
    elif method in ADAMS:
        known = ADAMS_OPTIONS
    elif method in IMPLICIT:
        known = IMPLICIT_OPTIONS
    elif method == "scipy_solver":
        known = SCIPY_OPTIONS
    given = {} if options is None else options
    check_mapping("options", given)
    found = dict(given)
    for name in found:
        if name not in known:
            raise ValueError(f"options: {method!r} has no {name!r}: {nearest(name, known)}")
    if method in ADAPTIVE:
        _check_adaptive(found)
    return found


def _check_adaptive(options: Mapping[str, Any]) -> None:
    if options.get("norm") is not None:
        check_function("options: norm", options["norm"])
    if options.get("dtype", torch.float64) != torch.float64:
        raise ValueError(f"options: dtype={options['dtype']}: times and steps are float64")


def check_times(t: Any, event: bool = False) -> None:
    """Raise torchdiffeq's errors unless t is a vector that only rises or only falls."""
    assert isinstance(t, Tensor), f"t must be a torch.Tensor, got {type(t).__name__}"
    if not t.is_floating_point():
        raise TypeError(f"`t` must be a floating point Tensor but is a {t.type()}")
    assert t.ndim == 1, f"t must be one dimensional, got {tuple(t.shape)}"
    if event and len(t) != 2:
        raise ValueError(
            f"We require len(t) == 2 when in event handling mode, but got len(t)={len(t)}."
        )
    steps = t.detach().diff()
    ordered = bool((steps > 0).all() or (steps < 0).all())
    assert ordered, f"t must be strictly increasing or decreasing, got {to_list(t)[:8]}"


def one_tolerance(name: str, value: Any) -> float:
    """A tolerance as a number.

    Raises:
        ValueError: for one that differs between elements or tensors.
    """
    parts = value if isinstance(value, tuple | list) else (value,)
    if not all(isinstance(p, Tensor | int | float) for p in parts):
        raise TypeError(f"{name}={value!r}: expected a number")
    numbers = {
        float(x)
        for part in parts
        for x in (to_list(part.flatten()) if isinstance(part, Tensor) else [part])
    }
    if len(numbers) != 1:
        raise ValueError(
            f"{name}: one number for the whole state is supported, got {sorted(numbers)[:4]}; "
            "scale the parts of the state instead"
        )
    return numbers.pop()


def solver_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `fastgen.odeint` with which it controls steps as torchdiffeq does.

    Raises:
        ValueError: for numbers out of range.
    """
    controller = options.get("controller")
    if controller is None:
        controller = Controller(
            safety=float(options.get("safety", 0.9)),
            min_factor=float(options.get("dfactor", 0.2)),
            max_factor=float(options.get("ifactor", 10.0)),
            min_step=float(options.get("min_step", 0.0)),
        )
    elif {"safety", "ifactor", "dfactor"} & set(options):
        raise ValueError("options: give either controller or safety, ifactor and dfactor")
    elif "min_step" in options:
        controller = Controller.of(controller, min_step=float(options["min_step"]))
    first = options.get("first_step")
    return {
        "controller": controller,
        "step": options.get("step", "joint"),
        "first_step": None if first is None else float(first),
        "max_step": float(options.get("max_step", math.inf)),
        "max_steps": int(options.get("max_num_steps", FOREVER)),
        "norm": options.get("norm"),
    }
