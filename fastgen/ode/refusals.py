"""What `odeint` refuses: arguments that its method, or what else was asked for, has no use of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastgen.common.checks import check_function, check_positive
from fastgen.common.step_size import Controller
from fastgen.common.transforms import check_not_batched
from fastgen.common.typed import check_argument
from fastgen.ode.adjoint import Adjoint
from fastgen.ode.replay import Through

CONTROLLER = "pi"


def check_method(
    method: str,
    adaptive: bool,
    step_size: float | None,
    limits: dict[str, Any],
    controller: str | Controller,
    way: Through | Adjoint | None,
) -> None:
    """Refuse what the method would not look at."""
    if adaptive:
        if step_size is not None:
            raise ValueError(
                f"step_size={step_size!r}: {method!r} chooses its own steps; use first_step or "
                "max_step"
            )
        return
    for name, value in limits.items():
        raise ValueError(
            f"{name}={value!r}: {method!r} takes step_size, the length of its fixed steps"
        )
    if controller != CONTROLLER:
        raise ValueError(
            f"controller={controller!r}: the steps of {method!r} are fixed; use step_size"
        )
    if isinstance(way, Through) and way.checkpoint != "none":
        raise ValueError(
            f"checkpoint={way.checkpoint!r}: {method!r} keeps everything; use a method of varying "
            "steps"
        )
    if step_size is not None:
        check_positive("step_size", step_size)


def check_compile(compile: bool, adaptive: bool) -> None:
    """Refuse what compiled evaluations do not work with."""
    check_argument("compile", compile, bool)
    if compile and not adaptive:
        raise ValueError(
            "compile=True: for methods of varying steps; with fixed ones give torch.compile(f)"
        )


def check_transforms(
    way: Through | Adjoint | None,
    adaptive: bool,
    y0: Any,
    t: Sequence[float] | Tensor,
    compile: bool,
) -> None:
    """Refuse what does not work in forward mode and inside of `torch.func`."""
    if isinstance(way, Adjoint):
        raise ValueError(
            "gradient='adjoint': serves backward() alone, not forward-mode derivatives and "
            "torch.func; use gradient='through'"
        )
    if compile:
        raise ValueError(
            "compile=True: not for forward-mode derivatives and torch.func; leave it out there"
        )
    call = "fastgen.odeint"
    check_not_batched(call, "all members have the same times; give them outside", t=t)
    if adaptive:
        check_not_batched(
            call,
            "steps of varying sizes are chosen for a batch axis of y0, not for one that vmap "
            "hides; call it on the whole batch, each sample has its own steps, or take a method "
            "of fixed steps",
            y0=y0,
        )


def check_special(event: bool, callback: bool, capture: bool, needed: bool, adaptive: bool) -> None:
    """Refuse what events, callbacks and recorded steps do not work with."""
    if event and (needed or not adaptive):
        raise ValueError(
            "event: found for methods of varying steps and without gradients; use "
            "gradient='none' or torch.no_grad()"
        )
    if capture and (event or callback or needed or not adaptive):
        raise ValueError(
            "capture=True: for methods of varying steps, without events, callbacks and gradients; "
            "use gradient='none' or torch.no_grad()"
        )


def check_norm(norm: Any, adaptive: bool, capture: bool) -> None:
    """Refuse a norm that is no function, or that nothing would ask."""
    if norm is None:
        return
    check_function("norm", norm)
    if not adaptive or capture:
        raise ValueError(
            "norm: of the errors of varying steps, without capture=True; leave it out for methods "
            "of fixed steps"
        )
