"""Likelihoods: of the probability flow exactly, and the variational bound of DDPM."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor

from fastgen.common.checks import check_choice, check_floating, check_real_device
from fastgen.common.compiling import uncompiled
from fastgen.common.derivatives import outside_inference_mode
from fastgen.common.display import displayed, extent
from fastgen.common.error_control import ErrorControlled, name_and_options
from fastgen.common.padding import Padding
from fastgen.common.transforms import check_untraced
from fastgen.common.typed import typed
from fastgen.likelihood.divergence import DIVERGENCES, Divergence
from fastgen.likelihood.ends import check_levels, standard_normal, uniform
from fastgen.model.field import ModelField
from fastgen.model.model import Model, check_model
from fastgen.model.output import check_output
from fastgen.ode import Solution, odeint, tableaus
from fastgen.sampling.error_controlled import interval, with_parameters
from fastgen.sampling.flow_steps import WITHOUT_GRADIENTS, FlowSteps
from fastgen.sampling.observation import Step


@displayed
@dataclass(frozen=True)
class LogLikelihood:
    """The result of ``log_likelihood(..., return_solution=True)``.

    log_prob: float64 [B], in nats. standard_error: of the divergence's estimate over the probes,
    float64 [B], zero where it is exact, NaN for a single probe. bits_per_dimension: float64 [B];
    with dequantisation those of the discrete data. latent: states [B, ...] at the noise end.
    solution: of the integrator. trajectory: states [n + 1, B, ...], where they were asked for.
    """

    log_prob: Tensor
    standard_error: Tensor
    bits_per_dimension: Tensor
    latent: Tensor
    solution: Solution
    trajectory: Tensor | None = None

    def _facts(self) -> dict[str, Any]:
        names = ("log_prob", "standard_error", "bits_per_dimension")
        facts: dict[str, Any] = {name: extent(getattr(self, name)) for name in names}
        cost = {k: v for k, v in self.solution._facts().items() if k not in ("ys", "reached")}
        return facts | {"latent": self.latent} | cost


@overload
def log_likelihood(
    model: Model,
    x: Tensor,
    *,
    divergence: str | Callable[..., Tensor] = "exact",
    probes: int | None = None,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    method: str | ErrorControlled[...] = "dopri5",
    rtol: float | None = None,
    atol: float | None = None,
    start: float | None = None,
    end: float | None = None,
    prior: Callable[[Tensor], Tensor] | None = None,
    dequantise: int | None = None,
    mask: Tensor | None = None,
    chunk: int = 64,
    dtype: torch.dtype = torch.float32,
    trajectory: Literal[False] = False,
    timesteps: Sequence[float] | None = None,
    callback: Callable[[Step], None] | None = None,
    progress: bool = False,
    differentiable: bool = False,
    return_solution: Literal[False] = False,
    net_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Tensor: ...
@overload
def log_likelihood(
    model: Model,
    x: Tensor,
    *,
    divergence: str | Callable[..., Tensor] = "exact",
    probes: int | None = None,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    method: str | ErrorControlled[...] = "dopri5",
    rtol: float | None = None,
    atol: float | None = None,
    start: float | None = None,
    end: float | None = None,
    prior: Callable[[Tensor], Tensor] | None = None,
    dequantise: int | None = None,
    mask: Tensor | None = None,
    chunk: int = 64,
    dtype: torch.dtype = torch.float32,
    trajectory: Literal[True],
    timesteps: Sequence[float] | None = None,
    callback: Callable[[Step], None] | None = None,
    progress: bool = False,
    differentiable: bool = False,
    return_solution: Literal[False] = False,
    net_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]: ...
@overload
def log_likelihood(
    model: Model,
    x: Tensor,
    *,
    divergence: str | Callable[..., Tensor] = "exact",
    probes: int | None = None,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    method: str | ErrorControlled[...] = "dopri5",
    rtol: float | None = None,
    atol: float | None = None,
    start: float | None = None,
    end: float | None = None,
    prior: Callable[[Tensor], Tensor] | None = None,
    dequantise: int | None = None,
    mask: Tensor | None = None,
    chunk: int = 64,
    dtype: torch.dtype = torch.float32,
    trajectory: bool = False,
    timesteps: Sequence[float] | None = None,
    callback: Callable[[Step], None] | None = None,
    progress: bool = False,
    differentiable: bool = False,
    return_solution: Literal[True],
    net_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> LogLikelihood: ...
@overload
def log_likelihood(
    model: Model,
    x: Tensor,
    *,
    divergence: str | Callable[..., Tensor] = "exact",
    probes: int | None = None,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    method: str | ErrorControlled[...] = "dopri5",
    rtol: float | None = None,
    atol: float | None = None,
    start: float | None = None,
    end: float | None = None,
    prior: Callable[[Tensor], Tensor] | None = None,
    dequantise: int | None = None,
    mask: Tensor | None = None,
    chunk: int = 64,
    dtype: torch.dtype = torch.float32,
    trajectory: bool = False,
    timesteps: Sequence[float] | None = None,
    callback: Callable[[Step], None] | None = None,
    progress: bool = False,
    differentiable: bool = False,
    return_solution: bool = False,
    net_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor] | LogLikelihood: ...
@uncompiled
@typed
@outside_inference_mode
def log_likelihood(
    model: Model,
    x: Tensor,
    *,
    divergence: str | Callable[..., Tensor] = "exact",
    probes: int | None = None,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    method: str | ErrorControlled[...] = "dopri5",
    rtol: float | None = None,
    atol: float | None = None,
    start: float | None = None,
    end: float | None = None,
    prior: Callable[[Tensor], Tensor] | None = None,
    dequantise: int | None = None,
    mask: Tensor | None = None,
    chunk: int = 64,
    dtype: torch.dtype = torch.float32,
    trajectory: bool = False,
    timesteps: Sequence[float] | None = None,
    callback: Callable[[Step], None] | None = None,
    progress: bool = False,
    differentiable: bool = False,
    return_solution: bool = False,
    net_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor] | LogLikelihood:
    """log p(x) in nats under the probability flow, [B].

    With dx/dt = v(x, t) from data at `end` to noise at `start`,

        log p(x) = log prior(x(start)) + int_end^start div v(x(t), t) dt

    (Chen et al. 2018, arXiv 1806.07366; Song et al. 2021, arXiv 2011.13456, appendix D.2). The
    value and the divergence come from one call of the network; probes are fixed for the whole
    solve, a function of (seed, sample id, number of the probe) alone, and each has an integral of
    its own, whence the standard error. Every sample has its own steps (step="joint": all the same).

    Args:
        model: the network and what it means, on any schedule. After the first evaluation it is
            called three times more: differences tell whether autograd saw the whole derivative.
        x: data [B, ...].
        divergence: "exact", one vector-Jacobian product for each dimension; "hutchinson", the
            mean of e^T J e over Rademacher probes (Hutchinson 1989; Grathwohl et al. 2019, arXiv
            1810.01367); "hutch++", a third of the probes span a subspace whose part of the trace
            is exact (Meyer et al. 2021, arXiv 2010.09649). Or a function, for a network that
            autograd cannot see through (NumPy, JAX, `torch.no_grad` inside): called as the network
            is, it gives the divergence [B] of the network's output in the network's input.
        probes: number of vector-Jacobian products per evaluation: 1 by default, at least 3 (the
            default) and a multiple of 3 for "hutch++"; none for "exact".
        seed: one seed, or one for each sample.
        sample_ids: ids of the samples, by default 0 .. B - 1.
        method, rtol, atol: see `fastgen.odeint`; tolerances of varying steps are 1e-5 by default.
            A method may have its options: ``fastgen.solvers.tsit5(rtol=1e-7)``.
        start, end: times of noise and data; by default the schedule's t_max, and 0 or t_min.
        prior: log density [B] of states at the start; by default N(0, sigma(start)^2).
        dequantise: number of levels of data on a grid in [-1, 1]: uniform noise of one level's
            width is added, and bits per dimension are those of the grid.
        mask: for samples of different lengths, True where an element of x is live; any shape that
            broadcasts to it. log p is that of the live elements, as if the sample came without its
            padding, which the network is given as 0. A divergence or prior of one's own has to
            leave the padding out.
        chunk: dimensions per batched product of "exact".
        dtype: of the state.
        trajectory: return (log p, states [n + 1, B, ...]): x and each sample after i accepted steps
            of its own, in row i, towards noise; those that have ended stay.
        timesteps: with trajectory, rising times from data to noise, whose states are returned
            instead (with gradients where they are computed); they are then end and start.
        callback: called with a `fastgen.Step` after each step that moved a sample.
        progress: show a progress bar of the time that is covered (needs tqdm).
        differentiable: whether to compute with gradients.
        return_solution: return a `LogLikelihood`.
        net_kwargs: for the network; tensors with a batch axis go with their samples.
        **options: of `fastgen.odeint`: controller, max_steps, gradient, capture, backend ...

    Works in inference mode too; ``docs/ode_and_sde.md`` says what does in other modes of torch.

    Raises:
        ValueError, TypeError: naming the argument; also for a network whose derivative autograd
            does not see. RuntimeError: naming a sample that failed.

    Example:
        >>> model = fastgen.Model(  # the data are N(0, 1), whose score is -x at all times
        ...     lambda x, t: -x, fastgen.schedules.LinearVP(), predicts="score"
        ... )
        >>> log_p = fastgen.log_likelihood(model, torch.zeros(1, 2))
        >>> round(log_p.item(), 3), round(-math.log(2 * math.pi), 3)
        (-1.838, -1.838)
    """
    if isinstance(method, ErrorControlled):
        tolerances = {k: v for k, v in (("rtol", rtol), ("atol", atol)) if v is not None}
        method, own_options = name_and_options(method, tolerances | options)
        rtol, atol = own_options.pop("rtol", rtol), own_options.pop("atol", atol)
        options |= own_options
    own = divergence if callable(divergence) else None
    kind = "exact" if callable(divergence) else check_choice("divergence", divergence, DIVERGENCES)
    check_model(model)
    check_floating("x", x, axes=2)
    check_real_device("x", x)
    batch = len(x)
    dims: int | Tensor = math.prod(x.shape[1:])
    start, end, times = _times(model, start, end, timesteps, trajectory)
    if prior is None and not model.schedule.sigma(start) > 0:
        raise ValueError(f"start={start!r}: sigma is 0 there, and so is the prior's deviation")
    x = x.to(dtype)
    if dequantise is not None:
        x = x + uniform(x, seed, sample_ids) * (2 / check_levels(dequantise))
    padding = None if mask is None else Padding(mask, x, name="data")
    if padding is not None:
        x, dims = padding.clear(x), padding.count[:, 0]
    predicted = ModelField(model, batch, net_kwargs, recorded=own is None)
    estimate = Divergence(kind, probes, chunk, x, seed, sample_ids)
    tableau = tableaus.find(method)
    if tableau is not None and tableau.adaptive:
        rtol, atol = 1e-5 if rtol is None else rtol, 1e-5 if atol is None else atol
    options = with_parameters(options, model)

    everyone = torch.arange(batch, device=x.device)

    def field(
        t: Tensor, state: tuple[Tensor, Tensor], rows: Tensor = everyone
    ) -> tuple[Tensor, Tensor]:
        time = t.double().expand(len(rows))  # with joint steps one time for all
        if own is not None:
            v = predicted("velocity", time, state[0], rows)
            arguments = "velocity", own, time, state[0], rows
            size = dims if isinstance(dims, int) else dims[rows]
            return v, predicted.divergence(*arguments, size)[:, None]

        def velocity(x: Tensor) -> Tensor:
            if padding is None:
                return predicted("velocity", time, x, rows)
            # Padding moves nothing and is moved by nothing: its rows and columns are 0.
            found: Tensor = padding.clear(
                predicted("velocity", time, padding.clear(x, rows), rows), rows
            )
            return found

        return estimate(velocity, state[0], rows)

    totals = x.new_zeros(batch, estimate.estimates)
    if not differentiable:
        check_untraced("log_likelihood", "pass differentiable=True", x=x)
    own_steps = trajectory and timesteps is None
    if own_steps and differentiable:
        raise ValueError(WITHOUT_GRADIENTS)
    bars: dict[str, Any] = {"callback": callback, "progress": progress}
    watch = FlowSteps(model, end, start, method, keep=x if own_steps else None, **bars)
    with torch.set_grad_enabled(bool(differentiable)), contextlib.closing(watch):
        solution: Solution = odeint(
            field,
            (x, totals),
            times,
            method=method,
            rtol=rtol,
            atol=atol,
            return_solution=True,
            callback=watch if watch.wanted else None,
            mask=None if padding is None else (padding.live, None),
            **options,
        )
        latent, integral = (part[-1] for part in solution.ys)
        if prior is None:
            log_prior = standard_normal(latent, model.schedule.sigma(start), dims)
        else:
            log_prior = prior(latent)
            check_output(log_prior, (batch,), x.device, "prior")
            log_prior = log_prior.double()
        integral = integral.double()
        log_prob = log_prior + integral.mean(1)
        if kind == "exact":
            error = torch.zeros_like(log_prob)
        elif integral.shape[1] == 1:
            error = torch.full_like(log_prob, math.nan)
        else:
            error = integral.std(1) / math.sqrt(integral.shape[1])
        bits = -log_prob / (dims * math.log(2))
        if dequantise is not None:
            bits = bits + math.log2(dequantise / 2)
    states = None
    if trajectory:
        states = watch.states() if own_steps else solution.ys[0]
    if return_solution:
        return LogLikelihood(log_prob, error.detach(), bits, latent, solution, states)
    return log_prob if states is None else (log_prob, states)


def _times(
    model: Model,
    start: float | None,
    end: float | None,
    timesteps: Sequence[float] | None,
    trajectory: bool,
) -> tuple[float, float, list[float]]:
    """Noise and data ends, and the times of the states that are wanted, from data to noise."""
    if timesteps is None:
        start, end = interval(model, start, end)
        return start, end, [end, start]
    if not trajectory:
        raise ValueError("timesteps: the times of a trajectory's states; pass trajectory=True")
    times = [float(t) for t in timesteps]
    if len(times) < 2 or any(a >= b for a, b in itertools.pairwise(times)):
        raise ValueError(f"timesteps={times}: expected rising times from data to noise")
    for name, given, own in (("start", start, times[-1]), ("end", end, times[0])):
        if given not in (None, own):
            raise ValueError(f"{name}={given!r}: timesteps has {own!r}; leave it out")
    start, end = interval(model, times[-1], times[0])
    return start, end, times
