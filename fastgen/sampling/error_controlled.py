"""Error-controlled sampling: the probability flow with steps for each sample alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

import fastgen.timesteps as grids
from fastgen.common.checks import check_choice, check_floating, check_number
from fastgen.common.errors import nearest
from fastgen.common.layouts import gives_channels_last, in_channels_last, with_channels_last
from fastgen.common.modes import unrecorded
from fastgen.common.transforms import functional, transforming, unwrapped
from fastgen.common.typed import check_argument
from fastgen.model.field import ModelField
from fastgen.model.guidance import Guidance
from fastgen.model.model import Model, check_model, check_time
from fastgen.model.output import modules_of
from fastgen.ode import Adjoint, Solution, odeint, tableaus
from fastgen.sampling.beginning import initial_state
from fastgen.sampling.dpm_adaptive import dpm_adaptive
from fastgen.sampling.flow_steps import WITHOUT_GRADIENTS, FlowSteps
from fastgen.sampling.observation import Step
from fastgen.sampling.prepared import check_state_dtype
from fastgen.solvers.registry import Timesteps
from fastgen.timesteps import Grid

DPM = "dpm_adaptive"
SOLVERS = (*tableaus.ADAPTIVE, DPM)
# What a sampler gives the integrators itself, and what would return something else than samples.
_OWN = ("f", "y0", "t", "method", "field", "x", "event", "return_solution", "callback", "watch")


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
    times: Sequence[float] | None = None,
    steps: FlowSteps | None = None,
    **options: Any,
) -> Tensor | Solution:
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
        return_solution: return a `fastgen.ode.Solution` with the times [start, end], or ``times``.
        times: from start to end, of a solution's states; not for "dpm_adaptive".
        steps: sees every step.
        **options: of `fastgen.odeint`, or of `dpm_adaptive`. ``compile=True`` compiles the
            network, and what is around it where there is no guidance.

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
    compile = options.pop("compile", False)
    check_argument("compile", compile, bool)
    field = ModelField(model, x.shape[0], net_kwargs, guidance)
    whole = solver != DPM and model.traceable and guidance is None and not field.whole
    # Compiled code has no tangents.
    if compile and not whole and not transforming():
        model = model.compiled()
        field = ModelField(model, x.shape[0], net_kwargs, guidance)
    watch = steps if steps is not None and steps.wanted else None
    if solver == DPM:
        start = model.schedule.t_max if start is None else start
        end = model.schedule.t_min if end is None else end
        solution = dpm_adaptive(field, x, start, end, rtol=rtol, atol=atol, watch=watch, **options)
        return solution if return_solution else solution.ys[-1]
    start, end = interval(model, start, end)
    everyone = torch.arange(x.shape[0], device=x.device)

    def velocity(t: Tensor, x: Tensor, rows: Tensor = everyone) -> Tensor:
        time = t.double().expand(len(rows))  # with joint steps one time for all
        return field("velocity", time, x, rows)

    kind = model.predicts, type(model.schedule), str(type(model.time_input))
    velocity.compiled_with = model.net, kind  # type: ignore[attr-defined]
    found: Solution = odeint(
        velocity,
        x,
        [start, end] if times is None else times,
        method=solver,
        rtol=rtol,
        atol=atol,
        return_solution=True,
        callback=watch,
        compile=compile and whole and not transforming(),
        **with_parameters(options, model),
    )
    return found if return_solution else found.ys[-1]


def sample_batch(
    model: Model,
    shape_or_x: Sequence[int] | Tensor,
    solver: str,
    steps: int | None,
    *,
    seed: int | Sequence[int] | Tensor,
    sample_ids: Sequence[int] | Tensor | None,
    guidance: Guidance | None,
    dtype: torch.dtype,
    device: torch.device | str | None,
    backend: str | None,
    trajectory: bool,
    callback: Callable[[Step], None] | None,
    progress: bool,
    check_finite: bool,
    differentiable: bool,
    net_kwargs: Mapping[str, Any] | None,
    data: Tensor | None,
    start: float | None = None,
    end: float | None = None,
    timesteps: Timesteps | None = None,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]:
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
    times, start, end = _asked(model, solver, steps, timesteps, trajectory, start, end)
    start = model.schedule.t_max if start is None else check_time("start", start)
    keys = seed, sample_ids, device
    mask = options.get("mask")
    x, _, _ = initial_state(model, shape_or_x, *keys, dtype, start, data=data, mask=mask)
    unwrapped(x, f"sample(solver={solver!r})")
    if solver != DPM and (in_channels_last(shape_or_x) or gives_channels_last(model.net)):
        x = with_channels_last(x)
    recorded = differentiable or functional()
    own_steps = trajectory and times is None
    if own_steps and recorded:
        raise ValueError(WITHOUT_GRADIENTS)
    last = interval(model, start, end)[1] if solver != DPM else model.schedule.t_min
    watch = FlowSteps(
        model,
        start,
        last if end is None else end,
        solver,
        callback=callback,
        keep=x if own_steps else None,
        progress=progress,
        quantity="noise" if solver == DPM else "velocity",
    )
    options |= {"start": start, "end": end, "times": times, "steps": watch, "backend": backend}
    options |= {"guidance": guidance, "net_kwargs": net_kwargs, "return_solution": True}
    with closing(watch), torch.inference_mode(False) if recorded else unrecorded(model.net):
        solution = sample_adaptive(model, x, solver, **options)
    assert isinstance(solution, Solution)
    found: Tensor = solution.ys[-1]
    if check_finite and not bool(torch.isfinite(found).all()):
        raise FloatingPointError("the samples are not finite")
    if not trajectory:
        return found
    return found, watch.states() if own_steps else solution.ys


def _asked(
    model: Model,
    solver: str,
    steps: int | None,
    timesteps: Timesteps | None,
    trajectory: bool,
    start: float | None,
    end: float | None,
) -> tuple[list[float] | None, float | None, float | None]:
    """The times of the states that are asked for, if any, and both ends."""
    if timesteps is None and steps is None:
        return None, start, end
    name = "steps" if timesteps is None else "timesteps"
    if not trajectory or timesteps is None:
        raise ValueError(
            f"{name}={steps if timesteps is None else timesteps!r}: {solver!r} chooses its own "
            "steps; with trajectory=True timesteps= are the times of the states"
        )
    if solver == DPM:
        raise ValueError(
            f"timesteps={timesteps!r}: {DPM!r} has no states between its steps; leave them out, or "
            "use another solver"
        )
    if isinstance(timesteps, (str, Grid)):
        start, end = interval(model, start, end)
        times = grids.times(timesteps, model.schedule, steps, start=start, end=end).tolist()
        return times, times[0], times[-1]
    given = {"start": start, "end": end}
    ends = {name: value for name, value in given.items() if value is not None}
    times = grids.times(timesteps, model.schedule, steps, **ends).tolist()
    return times, times[0], times[-1]
