"""Error-controlled sampling: the probability flow at times of each sample's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen.common.errors import nearest
from fastgen.model.guidance import Guidance
from fastgen.model.model import Model
from fastgen.noise.normals import randn
from fastgen.ode import Solution, odeint, tableaus
from fastgen.schedules import DiscreteVP

DPM = "dpm_adaptive"
SOLVERS = (*tableaus.ADAPTIVE, DPM)


class Prediction:
    """What a model predicts at states x [A, ...] and float64 times [A], one call of the network.

    Keyword arguments that are tensors with the whole batch as first axis are handed over for the
    samples of the call.
    """

    def __init__(
        self,
        model: Model,
        batch: int,
        net_kwargs: Mapping[str, Any],
        guidance: Guidance | None = None,
    ) -> None:
        if not model.time_dtype.is_floating_point:
            raise ValueError(
                f"time_dtype={model.time_dtype}: error-controlled steps stop at times that are "
                "not whole; the network must take a floating time"
            )
        if guidance is not None and guidance.interval != (0.0, 1.0):
            raise ValueError("guidance: an interval is a discontinuity for error-controlled steps")
        self.model, self.batch, self.guidance = model, batch, guidance
        self.kwargs = dict(net_kwargs)
        self.weak = {} if guidance is None else guidance.separate(net_kwargs)
        self.schedule, self.parametrisation = model.schedule, model.parametrisation

    def output(self, t: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        """The network's output, guided, in x's dtype."""
        model, guidance = self.model, self.guidance
        scaled = x
        if model.predicts == "edm":
            alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
            norm = torch.hypot(sigma, alpha * self.parametrisation.sigma_data)
            scaled = x * expand(1 / norm, x)
        scaled = scaled.to(model.input_dtype(x.dtype))
        time = self.network_time(t)
        times: tuple[Tensor, ...] = (time,)
        if model.predicts == "average_velocity":
            times = (time, time if model.second_time == "end" else torch.zeros_like(time))
        found = self._call(model.net, scaled, times, self.kwargs, rows)
        if guidance is not None:
            net = guidance.network or model.net
            weak = self._call(net, scaled, times, self.weak, rows)
            guidance = _of_rows(guidance, rows)
            found = guidance.merge(found, weak)
        return found.to(x.dtype)

    def _call(
        self,
        net: Any,
        x: Tensor,
        times: tuple[Tensor, ...],
        kwargs: Mapping[str, Any],
        rows: Tensor,
    ) -> Tensor:
        if len(rows) < self.batch:
            kwargs = {
                name: value[rows]
                if isinstance(value, Tensor) and value.ndim and value.shape[0] == self.batch
                else value
                for name, value in kwargs.items()
            }
        found = net(x, *times, **kwargs)
        if self.model.learned_variance:
            found = found.chunk(2, 1)[0]
        if not isinstance(found, Tensor) or found.shape != x.shape:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"net: expected a tensor of shape {tuple(x.shape)}, got {shape}")
        return found

    def network_time(self, t: Tensor) -> Tensor:
        """What the network is fed at internal times [A]; see `Model.network_time`."""
        kind, schedule = self.model.time_input, self.schedule
        if callable(kind):
            time = torch.tensor([float(kind(s)) for s in t.tolist()], dtype=torch.float64)
            time = time.to(t.device)
        elif kind == "unit":
            time = 1.0 - t if self.parametrisation.data_at == 1 else t
        elif kind == "index":
            assert isinstance(schedule, DiscreteVP)
            time = schedule.index_of_time(t)
        elif kind == "sigma":
            time = schedule.ratio(t)
        elif kind == "log_snr":
            time = schedule.log_snr(t)
        else:
            time = -schedule.half_log_snr(t) / 4
        return time.to(self.model.time_dtype)

    def solve(self, t: Tensor, wanted: str) -> tuple[Tensor | float, Tensor | float]:
        """(p, q) [A] with wanted = p x + q output: `Parametrisation.conversion` for many times."""
        predicts = self.model.predicts
        velocities = ("velocity", "average_velocity")
        given = "velocity" if predicts in velocities else predicts
        sign = -1.0 if self.parametrisation.data_at == 1 and given == "velocity" else 1.0
        if given == wanted:
            return 0.0, sign
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        w0, w1, w_scale = self._row(wanted, t, alpha, sigma)
        g0, g1, g_scale = self._row(given, t, alpha, sigma)
        denominator = (alpha * g1 - sigma * g0) * w_scale
        p = (w0 * g1 - w1 * g0) / denominator
        return p, sign * g_scale * (alpha * w1 - sigma * w0) / denominator

    def _row(self, quantity: str, t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Any, Any, Any]:
        """(a, b, scale) with scale * quantity = a x_0 + b eps."""
        if quantity == "data":
            return 1.0, 0.0, 1.0
        if quantity == "noise":
            return 0.0, 1.0, 1.0
        if quantity == "velocity":
            return self.schedule.d_alpha(t), self.schedule.d_sigma(t), 1.0
        if quantity == "v":
            return -sigma, alpha, 1.0
        if quantity == "score":
            return 0.0, -1.0, sigma
        deviation = self.parametrisation.sigma_data
        norm = torch.hypot(sigma, alpha * deviation)
        return sigma / (deviation * norm), -alpha * deviation / norm, 1.0

    def __call__(self, quantity: str, t: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        """A quantity at float64 times [A] and states [A, ...]."""
        output = self.output(t, x, rows)
        p, q = self.solve(t, quantity)
        if isinstance(q, float):
            found = output if q == 1 else output * q
        else:
            found = output * expand(q, x)
        return found if isinstance(p, float) and p == 0 else found + x * expand(p, x)


def expand(values: Tensor | float, x: Tensor) -> Tensor:
    """Numbers [A] as factors of x [A, ...]."""
    values = torch.as_tensor(values, dtype=torch.float64, device=x.device)
    return values.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def _of_rows(guidance: Guidance, rows: Tensor) -> Guidance:
    from dataclasses import replace

    if isinstance(guidance.scale, Tensor):
        return replace(guidance, scale=guidance.scale.to(rows.device)[rows])
    return guidance


def interval(model: Model, start: float | None, end: float | None) -> tuple[float, float]:
    """Where sampling starts and ends: by default t_max, and 0 where the flow is finite there.

    Raises:
        ValueError: where the prediction does not determine the velocity.
    """
    schedule = model.schedule
    start = schedule.t_max if start is None else float(start)
    if end is None:
        end = schedule.t_min
        try:
            model.parametrisation.conversion("velocity", 0.0)
            model.network_time(0.0)
            end = 0.0
        except ValueError:  # 1 / sigma, or d sigma / dt: stop before
            pass
    for name, t in (("start", start), ("end", float(end))):
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
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r}: {nearest(solver, SOLVERS)}")
    prediction = Prediction(model, x.shape[0], net_kwargs or {}, guidance)
    if solver == DPM:
        from fastgen.sampling.dpm_adaptive import dpm_adaptive

        start = model.schedule.t_max if start is None else start
        end = model.schedule.t_min if end is None else end
        solution = dpm_adaptive(prediction, x, start, end, rtol=rtol, atol=atol, **options)
        return solution if return_solution else solution.ys[-1]
    start, end = interval(model, start, end)

    everyone = torch.arange(x.shape[0], device=x.device)

    def velocity(t: Tensor, x: Tensor, rows: Tensor = everyone) -> Tensor:
        time = t.double().expand(len(rows))  # with joint steps one time for all
        return prediction("velocity", time, x, rows)

    found: Solution = odeint(
        velocity,
        x,
        [start, end],
        method=solver,
        rtol=rtol,
        atol=atol,
        return_solution=True,
        **options,
    )
    return found if return_solution else found.ys[-1]


def sample_by_name(
    model: Model,
    shape_or_x: Sequence[int] | Tensor,
    solver: str,
    given: Mapping[str, Any],
    defaults: Mapping[str, Any],
    options: dict[str, Any],
) -> Tensor:
    """What `fastgen.sample` returns for one of `SOLVERS`.

    Args:
        model: the network and what it means.
        shape_or_x: [B, ...], or the state at the start.
        solver: of `SOLVERS`.
        given, defaults: the other arguments of `sample`, and what they are where not given.
        options: its further keyword arguments, those of `sample_adaptive`.

    Raises:
        TypeError, ValueError: for what has no meaning without a plan.
    """
    for name in ("steps", "transform", "noise", "trajectory", "callback", "progress", "checkpoint"):
        if given[name] is not defaults[name] and given[name] != defaults[name]:
            raise ValueError(
                f"{name}={given[name]!r}: solver {solver!r} chooses its own steps and has none"
            )
    known = ("start", "end", "rtol", "atol", *_options(solver))
    for name in options:
        if name not in known:
            raise TypeError(f"unknown option {name!r}: {nearest(name, known)}")
    start = options.get("start")
    start = model.schedule.t_max if start is None else float(start)
    dtype, device = given["dtype"], given["device"]
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype}: the state is torch.float32 or torch.float64")
    if isinstance(shape_or_x, Tensor):
        if given["sample_ids"] is not None or given["seed"] is not defaults["seed"]:
            raise ValueError("seed, sample_ids: the initial state is given and nothing is drawn")
        x = shape_or_x.to(device=device, dtype=dtype)
    else:
        if device is None and isinstance(model.net, torch.nn.Module):
            device = next((p.device for p in model.net.parameters()), None)
        z = randn(
            shape_or_x,
            seed=given["seed"],
            sample_ids=given["sample_ids"],
            dtype=dtype,
            device="cpu" if device is None else device,
        )
        x = z * model.schedule.sigma(start)
    if solver != DPM:
        options = {"backend": given["backend"], **options}
    with torch.set_grad_enabled(given["differentiable"]):
        found: Tensor = sample_adaptive(
            model,
            x,
            solver,
            guidance=given["guidance"],
            net_kwargs=given["net_kwargs"],
            **options,
        )
    if given["check_finite"] and not bool(torch.isfinite(found).all()):
        raise FloatingPointError("the samples are not finite")
    return found


def _options(solver: str) -> Sequence[str]:
    if solver == DPM:
        return ("order", "controller", "first_step", "max_steps", "on_failure")
    return (
        "controller",
        "first_step",
        "min_step",
        "max_step",
        "max_steps",
        "step",
        "gradient",
        "checkpoint",
        "snapshots",
        "check_every",
        "capture",
    )


def standard_normal(x: Tensor, deviation: float) -> Tensor:
    """log N(x; 0, deviation^2) of samples x [B, ...], in float64 [B]."""
    flat = x.flatten(1).double()
    constant = math.log(2 * math.pi) + 2 * math.log(deviation)
    return -0.5 * ((flat / deviation).square().sum(1) + flat.shape[1] * constant)
