"""The variational bound of discrete diffusion: Improved DDPM's hybrid loss, bits per dimension."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fastgen.kernels as kernels
from fastgen.common.checks import check_floating, check_shape, per_row, rows_of
from fastgen.common.typed import typed
from fastgen.kernels import Clock, Noise
from fastgen.model.model import Model, check_model, merged
from fastgen.noise.keys import training_noise
from fastgen.schedules import DiscreteVP
from fastgen.training.losses.reduction import mean_square, reduced

LEVELS = 256  # of data in [-1, 1], as 8-bit images have


class StepPosterior(NamedTuple):
    """q(x_{i-1} | x_i, x_0) = N(keep x_i + data x_0, exp log_variance); each [B], float64.

    upper: log beta_i; lower: log beta~_i (that of i = 1 for i = 0, where it is -inf).
    """

    data: Tensor
    keep: Tensor
    lower: Tensor
    upper: Tensor


def posterior(schedule: DiscreteVP, index: Tensor) -> StepPosterior:
    """The posterior of one step at indices [B] from 0: Ho et al. 2020 (arXiv 2006.11239), eq. 7."""

    def bar(i: Tensor) -> Tensor:
        inside = i.clamp(min=0)
        squared = schedule.alpha(schedule.time_of_index(inside.to(torch.float64))) ** 2
        return torch.where(i < 0, 1.0, squared)

    now, before = bar(index), bar(index - 1)
    beta = 1 - now / before
    rest = 1 - now
    safe = index.clamp(min=1)
    safe_now, safe_before = bar(safe), bar(safe - 1)
    lower = ((1 - safe_now / safe_before) * (1 - safe_before) / (1 - safe_now)).log()
    keep = (1 - before) * (now / before).sqrt() / rest
    return StepPosterior(before.sqrt() * beta / rest, keep, lower, beta.log())


def _check(model: Model) -> DiscreteVP:
    check_model(model)
    if not isinstance(model.schedule, DiscreteVP):
        raise ValueError(f"model: expected a DiscreteVP schedule, got {model.schedule!r}")
    if model.parametrisation.data_at != 0:
        raise ValueError("model: expected data_at=0, for the steps of discrete diffusion")
    if model.predicts not in ("noise", "data", "v"):
        raise ValueError(f"model: expected predicts 'noise', 'data' or 'v', got {model.predicts!r}")
    return model.schedule


@typed
def hybrid(
    model: Model,
    data: Tensor,
    index: Tensor | None = None,
    *,
    vlb_weight: float = 1e-3,
    seed: int | Tensor = 0,
    step: int = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    reduction: str = "mean",
    net_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """L_simple + vlb_weight num_steps L_i: learned variances (arXiv 2102.09672, equation 16).

    L_i is the term of the bound at a random step i, in bits per dimension; its gradient reaches the
    variance only, whose logarithm the network interpolates between log beta~_i and log beta_i.

    Args:
        model: of ``learned_variance`` on a DiscreteVP schedule.
        data: [B, ...] in [-1, 1].
        index: steps [B], int64 from 0; uniform if None.
        vlb_weight: 1e-3 in the paper (where it multiplies the sum over steps).
        seed, step, sample_ids: of steps and noise.
        reduction: "mean", or "none" for [B].
        net_kwargs, **kwargs: handed to the network; net_kwargs is a dictionary for names that
            mean something else here, such as seed.
    """
    schedule = _check(model)
    if not model.learned_variance:
        raise ValueError("model: expected Model(..., learned_variance=True)")
    check_floating("data", data)
    rows, device = len(data), data.device
    key, count = training_noise(rows, device, seed, step, sample_ids), schedule.num_steps
    if index is None:
        clock = Clock(torch.tensor([0.0, 1.0], dtype=torch.float64, device=device))
        u = kernels.times(key, clock)
        index = (u * schedule.num_steps).long().clamp(max=schedule.num_steps - 1)
    check_shape("index", index, (rows,))
    whole = not (index.is_floating_point() or index.is_complex() or index.dtype == torch.bool)
    if not whole or (device.type == "cpu" and not bool(((index >= 0) & (index < count)).all())):
        raise ValueError(
            f"index: expected whole steps [B] from 0 to {count - 1}, got {index.dtype}"
        )
    x, noise = _noised(schedule, data, index, key)
    output, variance = _network(model, x, index, merged(net_kwargs, kwargs))
    target = _target(model, data, noise, index)
    bound = _bound(model, data, x, index, output.detach(), variance)
    loss = mean_square(output - target) + vlb_weight * schedule.num_steps * bound
    return reduced(loss, None, reduction)


@typed
def bits_per_dimension(
    model: Model,
    data: Tensor,
    *,
    seed: int | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    net_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """The variational bound of -log2 p(data) / dimensions, [B], every step evaluated once.

    L_0 is the discretised likelihood of data on 256 levels in [-1, 1] (Ho et al. 2020, equation
    13), the others divergences of Gaussians, and the last that of q(x_N | data) from N(0, 1).
    The variance is the learned one, or else beta_i.
    """
    schedule, arguments = _check(model), merged(net_kwargs, kwargs)
    check_floating("data", data)
    rows, device = len(data), data.device
    total = _prior(schedule, data)
    with torch.no_grad():
        for i in range(schedule.num_steps):
            key = training_noise(rows, device, seed, i, sample_ids)
            index = torch.full((rows,), i, device=device)
            x, _ = _noised(schedule, data, index, key)
            output, variance = _network(model, x, index, arguments)
            total = total + _bound(model, data, x, index, output, variance)
    return total


def _noised(schedule: DiscreteVP, data: Tensor, index: Tensor, key: Noise) -> tuple[Tensor, Tensor]:
    t = schedule.time_of_index(index.to(torch.float64))
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    columns = [zero, schedule.alpha(t), schedule.sigma(t), zero, zero, one]
    _, x, noise = kernels.bridge(None, data, torch.stack(columns, -1).reshape(-1, 2, 3), t, key)
    return x, noise


def _network(
    model: Model, x: Tensor, index: Tensor, net_kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    schedule = model.schedule
    assert isinstance(schedule, DiscreteVP)
    t = model.network_time(schedule.time_of_index(index.to(torch.float64)))
    found = model.outputs(x.to(model.input_dtype(x.dtype)), (t,), net_kwargs)
    mean, *variance = [output.to(x.dtype) for output in found]
    return mean, variance[0] if variance else None


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return per_row(values.to(like.dtype), like)


def _scales(model: Model, index: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    schedule = model.schedule
    assert isinstance(schedule, DiscreteVP)
    t = schedule.time_of_index(index.to(torch.float64))
    return _wide(schedule.alpha(t), like), _wide(schedule.sigma(t), like)


def _target(model: Model, data: Tensor, noise: Tensor, index: Tensor) -> Tensor:
    if model.predicts == "v":
        alpha, sigma = _scales(model, index, data)
        return alpha * noise - sigma * data
    return noise if model.predicts == "noise" else data


def _bound(
    model: Model, data: Tensor, x: Tensor, index: Tensor, output: Tensor, variance: Tensor | None
) -> Tensor:
    """L_i in bits per dimension, [B]."""
    schedule = model.schedule
    assert isinstance(schedule, DiscreteVP)
    alpha, sigma = _scales(model, index, x)
    guess = output
    if model.predicts == "noise":
        guess = (x - sigma * output) / alpha
    elif model.predicts == "v":
        guess = alpha * x - sigma * output
    q = posterior(schedule, index)
    weight, keep = _wide(q.data, x), _wide(q.keep, x)
    lower, upper = _wide(q.lower, x), _wide(q.upper, x)
    log_variance = upper.expand_as(x)
    if variance is not None:
        log_variance = lower + (variance + 1) / 2 * (upper - lower)
    error = weight * (data - guess)
    divergence = (log_variance - lower + (lower - log_variance).exp() - 1) / 2
    divergence = divergence + error.square() * (-log_variance).exp() / 2
    likelihood = -discretised(data, keep * x + weight * guess, log_variance / 2)
    nats = torch.where(_wide(index == 0, x) != 0, likelihood, divergence)
    return rows_of(nats).mean(1) / math.log(2)


def discretised(data: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log of the Gaussian's mass in each level's cell; the two outer cells are infinite."""
    scale, half = (-log_std).exp(), 1 / (LEVELS - 1)
    above, below = (data - mean + half) * scale, (data - mean - half) * scale
    # In the upper tail the mass is a difference of numbers near 1: mirror it.
    flip = above + below > 0
    above, below = torch.where(flip, -below, above), torch.where(flip, -above, below)
    low_end, high_end = data < -1 + half, data > 1 - half
    below = torch.where(torch.where(flip, high_end, low_end), -torch.inf, below)
    above = torch.where(torch.where(flip, low_end, high_end), torch.inf, above)
    mass = torch.special.ndtr(above) - torch.special.ndtr(below)
    logarithm: Tensor = mass.clamp(min=1e-12).log()
    return logarithm


def _prior(schedule: DiscreteVP, data: Tensor) -> Tensor:
    """KL(q(x_N | data) | N(0, 1)) in bits per dimension, [B]."""
    last = schedule.time_of_index(float(schedule.num_steps - 1))
    alpha, sigma = schedule.alpha(last), schedule.sigma(last)
    nats = (sigma**2 - 1 - 2 * math.log(sigma) + (alpha * data) ** 2) / 2
    return rows_of(nats).mean(1) / math.log(2)
