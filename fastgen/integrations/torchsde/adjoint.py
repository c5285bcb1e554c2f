"""torchsde's `sdeint_adjoint`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.common.checks import as_numbers
from fastgen.common.errors import nearest
from fastgen.common.leaves import leaves_of
from fastgen.common.once import differentiable_once
from fastgen.integrations.torchsde.motions import BrownianInterval
from fastgen.integrations.torchsde.settings import METHODS
from fastgen.integrations.torchsde.solve import (
    check_types,
    functions_of,
    sdeint,
    solve,
)


def sdeint_adjoint(
    sde: Any,
    y0: Tensor,
    ts: Sequence[float] | Tensor,
    bm: Any = None,
    method: str | None = None,
    adjoint_method: str | None = None,
    dt: float | Tensor = 1e-3,
    adaptive: bool = False,
    adjoint_adaptive: bool = False,
    rtol: float = 1e-5,
    adjoint_rtol: float = 1e-5,
    atol: float = 1e-4,
    adjoint_atol: float = 1e-4,
    dt_min: float = 1e-5,
    options: dict[str, Any] | None = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Sequence[Tensor] | None = None,
    names: dict[str, str] | None = None,
    logqp: bool = False,
    extra: bool = False,
    extra_solver_state: Any = None,
    *,
    entropy: int | None = None,
) -> Any:
    """`sdeint` with gradients in less memory, exact for every method.

    torchsde solves an adjoint equation, whose gradient is that of the steps only in the limit of
    small ones. Here the steps themselves are differentiated: those of "reversible_heun" are
    undone on the way back, in the memory of one; those of others are made once more from each
    output, so that memory holds the states at ts and the steps between two of them. More times in
    ts take less memory. Adaptive steps are kept.

    Args:
        sde, y0, ts, bm, method, dt, adaptive, rtol, atol, dt_min, options, names, logqp, extra,
            extra_solver_state, entropy: as of `sdeint`.
        adjoint_method: torchsde's name for a method; the adjoint's options, adjoint_adaptive,
            adjoint_rtol, adjoint_atol and adjoint_options, have no equation to be of.
        adjoint_params: what "reversible_heun" differentiates in besides y0; None takes the
            parameters of a module. Other methods' gradients reach all that the sde depends on;
            where that is a tensor computed before (an encoder's context) which is not among
            these, all steps are kept in memory.

    Raises:
        ValueError: naming what does not fit.
    """
    if adjoint_method is not None and adjoint_method not in METHODS:
        raise ValueError(
            f"adjoint_method={adjoint_method!r}: {nearest(adjoint_method, METHODS.all())}"
        )
    check_types(sde)
    if method == "reversible_heun" and not (extra or extra_solver_state):
        parameters = adjoint_params
        if parameters is None:
            parameters = list(sde.parameters()) if isinstance(sde, nn.Module) else []
        parameters = [p for p in parameters if p.requires_grad]
        settings = {"dt": float(dt), "gradient": "adjoint", "parameters": parameters}
        return solve(sde, y0, ts, bm, method, names, logqp, entropy, settings)
    common: dict[str, Any] = {
        "method": method,
        "dt": dt,
        "adaptive": adaptive,
        "rtol": rtol,
        "atol": atol,
        "dt_min": dt_min,
        "options": options,
        "names": names,
        "logqp": logqp,
    }
    given = adjoint_params
    if given is None:
        given = list(sde.parameters()) if isinstance(sde, nn.Module) else []
    given = [p for p in given if p.requires_grad]
    found = None
    if not (adaptive or extra or extra_solver_state or not torch.is_grad_enabled()) and len(ts) > 2:
        found = _by_pieces(sde, y0, ts, bm, names, entropy, common, given)
    if found is None:
        common |= {"extra": extra, "extra_solver_state": extra_solver_state}
        found = sdeint(sde, y0, ts, bm, entropy=entropy, **common)
    return _attached(found, given)


def _attached(found: Any, parameters: list[Tensor]) -> Any:
    """States that depend on no parameter, as ones whose gradients are 0: as in torchsde."""
    ys = found[0] if isinstance(found, tuple) else found
    if ys.requires_grad or not parameters or not torch.is_grad_enabled():
        return found
    apply: Any = _Constant.apply
    ys = apply(ys, *parameters)
    return (ys, *found[1:]) if isinstance(found, tuple) else ys


class _Constant(torch.autograd.Function):
    """A value that does not change with tensors that need gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return value.clone()

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *(torch.zeros_like(x) for x in ctx.saved_tensors))


def _by_pieces(
    sde: Any,
    y0: Tensor,
    ts: Any,
    bm: Any,
    names: dict[str, str] | None,
    entropy: int | None,
    common: dict[str, Any],
    parameters: list[Tensor],
) -> Any:
    """One solve between each two outputs, made again on the way back along the same motion.

    None where that is not possible: where the sde depends on a tensor that is not among the
    parameters and has a graph of its own.
    """
    times = as_numbers("ts", ts).detach()
    if not bool((times.diff() > 0).all()):
        raise ValueError(f"ts: expected strictly increasing times, got {ts}")
    logqp = common["logqp"]
    if bm is None:
        size = (len(y0), _width(sde, y0, times[:1], names) + (logqp and _diagonal(sde)))
        bm = BrownianInterval(
            times[0],
            times[-1],
            size,
            y0.dtype,
            y0.device,
            entropy,
            levy_area_approximation="foster",
        )
    functions = [k for k in functions_of(sde, names, logqp, bm) if k is not None]
    at = times.to(y0)[0], y0.detach()
    more = leaves_of(lambda: [function(*at) for function in functions], parameters)
    if more is None:
        return None
    states, ratios = [y0], []
    apply: Any = _Piece.apply
    for ends in pairwise(times):

        def piece(y: Tensor, ends: Sequence[Tensor] = ends) -> tuple[Tensor, ...]:
            found = sdeint(sde, y, torch.stack(list(ends)), bm, **common)
            return (found[0][1], found[1][0]) if logqp else (found[1],)

        state, *ratio = apply(piece, states[-1], *parameters, *more)
        states.append(state)
        ratios += ratio
    ys = torch.stack(states)
    return (ys, torch.stack(ratios)) if logqp else ys


class _Piece(torch.autograd.Function):
    """A function of a state and of tensors that it knows itself, evaluated again on the way back.

    torch's checkpoint would evaluate it again for each derivative of g that the solve takes.
    """

    @staticmethod
    def forward(
        ctx: Any, piece: Callable[[Tensor], tuple[Tensor, ...]], y: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.piece = piece
        ctx.save_for_backward(y, *tensors)
        return piece(y.detach())

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        y, *tensors = ctx.saved_tensors
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            found = ctx.piece(y)
        pairs = [(x, d) for x, d in zip(found, gradients, strict=True) if x.requires_grad]
        if not pairs:
            return None, *(torch.zeros_like(x) for x in (y, *tensors))
        return None, *torch.autograd.grad(
            [x for x, _ in pairs],
            [y, *tensors],
            [d for _, d in pairs],
            allow_unused=True,
            materialize_grads=True,
        )


def _diagonal(sde: Any) -> bool:
    return bool(sde.noise_type == "diagonal")


def _width(sde: Any, y0: Tensor, t: Tensor, names: dict[str, str] | None) -> int:
    """How many noises there are."""
    if sde.noise_type in ("diagonal", "scalar"):
        return y0.shape[1] if sde.noise_type == "diagonal" else 1
    _, g, _ = functions_of(sde, names, False, None)
    with torch.no_grad():
        width: int = g(t.to(y0)[0], y0.detach()).shape[-1]
    return width
