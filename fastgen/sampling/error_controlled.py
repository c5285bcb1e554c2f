"""Error-controlled sampling: the probability flow with steps for each sample alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_choice, check_floating, check_number
from fastgen.common.errors import nearest
from fastgen.common.modes import unrecorded
from fastgen.common.transforms import functional, unwrapped
from fastgen.model.field import ModelField
from fastgen.model.guidance import Guidance
from fastgen.model.model import Model, check_model, check_time
from fastgen.model.output import modules_of
from fastgen.ode import Adjoint, Solution, odeint, tableaus
from fastgen.sampling.dpm_adaptive import dpm_adaptive
from fastgen.sampling.prepared import check_state_dtype, initial_state

DPM = "dpm_adaptive"
SOLVERS = (*tableaus.ADAPTIVE, DPM)
# What a sampler gives the integrators itself, and what would return something else than samples.
_OWN = ("f", "y0", "t", "method", "field", "x", "event", "return_solution")


@cache
def options_of(solver: str) -> tuple[str, ...]:
    """Keyword arguments of the integrator behind one of ``SOLVERS`` that samples may ask for."""
    integrator = dpm_adaptive if solver == DPM else odeint
    names = inspect.signature(integrator).parameters
    return tuple(name for name in names if name not in _OWN)


def with_parameters(options: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """The integrator's options, with the network's parameters where the adjoint asks for them.

    The field that is integrated is a function, which does not show them.
    """
    way = options.get("gradient")
    if way == "adjoint" or (isinstance(way, Adjoint) and way.parameters is None):
        modules = modules_of(model.net)
        own = tuple({id(p): p for m in modules for p in m.parameters()}.values())
        way = replace(Adjoint() if isinstance(way, str) else way, parameters=own or None)
        return {**options, "gradient": way}
    return dict(options)


def interval(model: Model, start: float | None, end: float | None) -> tuple[float, float]:
    """Where sampling starts and ends: by default t_max, and 0 where the flow is finite there.

    Raises:
        ValueError: where the prediction does not determine the velocity.
    """
    schedule = model.schedule
    start = schedule.t_max if start is None else check_number("start", start)
    if end is None:
        end = schedule.t_min
        try:
            model.parametrisation.conversion("velocity", 0.0)
            model.network_time(0.0)
            end = 0.0
        except ValueError:  # 1 / sigma, or d sigma / dt: stop before
            pass
    for name, t in (("start", start), ("end", check_number("end", end))):
        if not 0 <= t <= 1:
            raise ValueError(f"{name}={t!r}: expected a time within [0, 1]")
        model.parametrisation.conversion("velocity", t)
        model.network_time(t)
    return start, float(end)


def sample_adaptive(
    model: Model,
    x: Tensor,
    solver: str,
    *,
    start: float | None = None,
    end: float | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    guidance: Guidance | None = None,
    net_kwargs: Mapping[str, Any] | None = None,
    return_solution: bool = False,
    **options: Any,
) -> Any:
    """The state at time `end` of the probability flow from x [B, ...] at time `start`.

    dx/dt = alpha' x_0(x, t) + sigma' eps(x, t) with each sample's own steps, or with solver
    "dpm_adaptive" DPM-Solver's own embedded pairs (see `dpm_adaptive`).

    Args:
        model: the network and what it means.
        x: initial states.
        solver: of `SOLVERS`.
        start, end: see `interval`.
        rtol, atol: tolerances of the state.
        guidance: classifier-free guidance or autoguidance at all times.
        net_kwargs: for the network; tensors with a batch axis go with their samples.
        return_solution: return a `fastgen.ode.Solution` with the times [start, end].
        **options: of `fastgen.odeint`, or of `dpm_adaptive`.

    Raises:
        ValueError, TypeError: naming the argument. RuntimeError: naming a sample that failed.
    """
    check_model(model)
    check_choice("solver", solver, SOLVERS)
    check_floating("x", x)
    known = ("start", "end", "rtol", "atol", *options_of(solver))
    for name in options:
        if name not in known:
            raise TypeError(
                f"unknown option {name!r}: {nearest(name, (*known, 'net_kwargs', 'guidance'))}; "
                f"the network's own arguments go into net_kwargs={{{name!r}: ...}}"
            )
    field = ModelField(model, x.shape[0], net_kwargs, guidance)
    if solver == DPM:
        start = model.schedule.t_max if start is None else start
        end = model.schedule.t_min if end is None else end
        solution = dpm_adaptive(field, x, start, end, rtol=rtol, atol=atol, **options)
        return solution if return_solution else solution.ys[-1]
    start, end = interval(model, start, end)
    everyone = torch.arange(x.shape[0], device=x.device)

    def velocity(t: Tensor, x: Tensor, rows: Tensor = everyone) -> Tensor:
        time = t.double().expand(len(rows))  # with joint steps one time for all
        return field("velocity", time, x, rows)

    found: Solution = odeint(
        velocity,
        x,
        [start, end],
        method=solver,
        rtol=rtol,
        atol=atol,
        return_solution=True,
        **with_parameters(options, model),
    )
    return found if return_solution else found.ys[-1]


def sample_batch(
    model: Model,
    shape_or_x: Sequence[int] | Tensor,
    solver: str,
    *,
    seed: int | Sequence[int] | Tensor,
    sample_ids: Sequence[int] | Tensor | None,
    guidance: Guidance | None,
    dtype: torch.dtype,
    device: torch.device | str | None,
    backend: str | None,
    check_finite: bool,
    differentiable: bool,
    net_kwargs: Mapping[str, Any] | None,
    start: float | None = None,
    **options: Any,
) -> Tensor:
    """What `fastgen.sample` returns for one of ``SOLVERS``; its arguments, and `sample_adaptive`'s.

    Raises:
        TypeError, ValueError: naming the argument. FloatingPointError: for ``check_finite``.
    """
    check_state_dtype(dtype)
    drawn = not isinstance(shape_or_x, Tensor)
    if not drawn and not (
        sample_ids is None and not isinstance(seed, Tensor | Sequence) and seed == 0
    ):
        raise ValueError("seed, sample_ids: the initial state is given and nothing is drawn")
    start = model.schedule.t_max if start is None else check_time("start", start)
    x, _, _ = initial_state(model, shape_or_x, seed, sample_ids, device, dtype, start)
    options |= {"start": start, "backend": backend, "guidance": guidance, "net_kwargs": net_kwargs}
    unwrapped(x, f"sample(solver={solver!r})")
    recorded = differentiable or functional()
    with torch.inference_mode(False) if recorded else unrecorded(model.net):
        found: Tensor = sample_adaptive(model, x, solver, **options)
    if check_finite and not bool(torch.isfinite(found).all()):
        raise FloatingPointError("the samples are not finite")
    return found
