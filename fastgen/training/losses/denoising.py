"""Denoising: networks of any prediction on any schedule, with the field's weightings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import fastgen.kernels as kernels
from fastgen.common.checks import check_choice, check_floating, check_positive, check_shape, per_row
from fastgen.common.padding import Padding
from fastgen.common.typed import typed
from fastgen.kernels import Clock, Noise
from fastgen.model.model import Model, check_model, merged
from fastgen.model.output import called, check_output
from fastgen.model.parametrisation import PAIR
from fastgen.noise.keys import training_noise
from fastgen.training.losses.reduction import (
    bridged,
    mean_square,
    padding_of,
    reduced,
    sum_square,
)
from fastgen.training.times import Times, check_times, uniform

Weighting = Callable[[Model, Tensor], Tensor]


def _target(model: Model, s: Tensor) -> tuple[Tensor, Tensor]:
    """(a, b) with the network's target = a data + b noise at internal times s [B]."""
    if model.predicts in ("average_velocity", PAIR):
        raise ValueError(
            f"predicts={model.predicts!r}: for networks of two times use mean_flow or shortcut"
        )
    return model.parametrisation.target(s)


def _noise_error_squared(model: Model, s: Tensor) -> Tensor:
    """(d noise / d target)^2 at a given state: what turns the target's error into the noise's."""
    a, b = _target(model, s)
    alpha, sigma = model.schedule.alpha(s), model.schedule.sigma(s)
    return (alpha / (alpha * b - sigma * a)) ** 2


def simple(model: Model, s: Tensor) -> Tensor:
    """1 for the mean square of whatever is predicted (Ho et al. 2020, arXiv 2006.11239)."""
    return torch.ones_like(s)


def likelihood(model: Model, s: Tensor) -> Tensor:
    """g^2 for the score's error: a bound of the likelihood (Song et al. 2021, arXiv 2101.09258)."""
    g2, sigma = model.schedule.diffusion_squared(s), model.schedule.sigma(s)
    return g2 / sigma**2 * _noise_error_squared(model, s)


def min_snr(gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma) for the error in data (Hang et al. 2023, arXiv 2303.09556)."""
    check_positive("gamma", gamma, infinite=True)

    def weighting(model: Model, s: Tensor) -> Tensor:
        snr = model.schedule.log_snr(s).exp()
        return (gamma / snr).clamp(max=1) * _noise_error_squared(model, s)

    return weighting


def edm(model: Model, s: Tensor) -> Tensor:
    """(r^2 + sigma_data^2) / (r sigma_data)^2 for the error in data, r = sigma / alpha.

    1 for the inner network of EDM's preconditioning (Karras et al. 2022, arXiv 2206.00364).
    """
    r, deviation = model.schedule.ratio(s), model.parametrisation.sigma_data
    # The error of data is r times that of noise.
    return (r**2 + deviation**2) / deviation**2 * _noise_error_squared(model, s)


def sigmoid(bias: float = 2.0) -> Weighting:
    """1 / (1 + exp(log SNR - bias)) for the error in noise.

    Kingma and Gao 2023 (arXiv 2303.00848), Hoogeboom et al. 2024 (2410.19324).
    """

    def weighting(model: Model, s: Tensor) -> Tensor:
        return torch.sigmoid(bias - model.schedule.log_snr(s)) * _noise_error_squared(model, s)

    return weighting


WEIGHTINGS: dict[str, Weighting] = {
    "simple": simple,
    "likelihood": likelihood,
    "min_snr": min_snr(),
    "edm": edm,
    "sigmoid": sigmoid(),
}


@typed
def denoising(
    model: Model,
    data: Tensor,
    t: Tensor | None = None,
    *,
    noise: Tensor | None = None,
    seed: int | Tensor = 0,
    step: int = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    times: Times | None = None,
    weighting: str | Weighting = "simple",
    reduction: str = "mean",
    mask: Tensor | None = None,
    net_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """w(t) |net(x_t, t) - target|^2 with x_t = alpha data + sigma noise, the mean over elements.

    The target is what the model predicts: noise, data, v, velocity, score, or EDM's inner network
    (which is fed c_in x_t). Whatever it is, the minimiser is the conditional expectation, so that
    `fastgen.sample(model, ...)` samples what was trained. Vincent 2011; Ho et al. 2020 (arXiv
    2006.11239); Salimans and Ho 2022 (2202.00512).

    Args:
        model: network, schedule and prediction.
        data: [B, ...].
        t: times [B] in [0, 1] of the model (data at ``data_at``); drawn from ``times`` if None.
        noise: standard normal [B, ...]; drawn if None.
        seed, step, sample_ids: of the times and the noise; see `Path.sample`.
        times: distribution of t; the default is uniform but for the 1e-5 next to the data, where
            scores are infinite.
        weighting: a name ("simple", "likelihood", "min_snr", "edm", "sigmoid") or a function of
            (model, internal times [B]) that multiplies the square of the target's error.
        reduction: "mean", or "none" for [B].
        mask: for samples of different lengths, True where an element of data is live; any shape
            that broadcasts to it. Means are over the live elements, padding is 0 for the network,
            and the noise is that of the samples without padding, in whatever layout.
        net_kwargs, **kwargs: handed to the network; net_kwargs is a dictionary for names that
            mean something else here, such as seed.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    if isinstance(weighting, str):
        weighting = WEIGHTINGS[check_choice("weighting", weighting, WEIGHTINGS)]
    if not callable(weighting):
        raise TypeError(f"weighting={weighting!r}: expected a name or a function (model, times)")
    check_model(model)
    check_floating("data", data)
    rows, device, data_at = len(data), data.device, model.parametrisation.data_at
    key = training_noise(rows, device, seed, step, sample_ids)
    if t is None:
        times = times or (uniform(1e-5, 1.0) if data_at == 0 else uniform(0.0, 1 - 1e-5))
        t = kernels.times(key, times.clock(device))
    else:
        check_times("t", t, rows)
    s = t.to(torch.float64)
    s = 1 - s if data_at == 1 else s
    if noise is not None:
        check_floating("noise", noise)
        check_shape("noise", noise, data.shape, like="data")
    padding = padding_of(mask, data)
    state, target = _noised(model, data, noise, key, s, padding)
    fed = state.to(model.input_dtype(state.dtype))
    arguments = merged(net_kwargs, kwargs)
    output = model.outputs(fed, (model.network_time(s),), arguments)[0].to(target.dtype)
    return reduced(mean_square(output - target, padding), weighting(model, s), reduction)


def _noised(
    model: Model,
    data: Tensor,
    noise: Tensor | None,
    key: Noise,
    s: Tensor,
    padding: Padding | None,
) -> tuple[Tensor, Tensor]:
    """The network's input, with EDM's scale, and its target."""
    alpha, sigma, zero = model.schedule.alpha(s), model.schedule.sigma(s), torch.zeros_like(s)
    a, b = _target(model, s)
    if model.predicts == "edm":
        scale = 1 / torch.hypot(sigma, alpha * model.parametrisation.sigma_data)
        alpha, sigma = alpha * scale, sigma * scale
    columns = (
        [sigma, alpha, zero, b, a, zero] if noise is not None else [zero, alpha, sigma, zero, a, b]
    )
    table = torch.stack(columns, -1).reshape(-1, 2, 3)
    _, state, target = bridged(noise, data, table, s, key, padding, noisy=noise is None)
    return state, target


@typed
def annealed(
    net: Callable[..., Tensor],
    data: Tensor,
    sigmas: Tensor,
    *,
    condition: str = "sigma",
    seed: int | Tensor = 0,
    step: int = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    reduction: str = "mean",
    mask: Tensor | None = None,
    net_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """NCSN: sigma_i^2 / 2 |s(x + sigma_i z, i) + z / sigma_i|^2 at one random level i for each row.

    Summed over elements. Song and Ermon 2019 (arXiv 1907.05600), equation 6.

    Args:
        net: score network, called as net(x, c, **net_kwargs).
        data: [B, ...].
        sigmas: the noise levels [L], all positive.
        condition: what it is fed as c [B]: the "sigma", or its "index" (int64).
        seed, step, sample_ids: of levels and noise.
        reduction: "mean", or "none" for [B].
        mask: as of `denoising`; the sum is over the live elements.
        net_kwargs, **kwargs: handed to the network; net_kwargs is a dictionary for names that
            mean something else here, such as seed.
    """
    check_floating("data", data)
    check_floating("sigmas", sigmas, "[L]")
    if sigmas.ndim != 1 or len(sigmas) == 0 or not bool((sigmas > 0).all()):
        raise ValueError(f"sigmas: expected positive noise levels [L], got {sigmas}")
    check_choice("condition", condition, ("sigma", "index"))
    rows, device = len(data), data.device
    key = training_noise(rows, device, seed, step, sample_ids)
    clock = Clock(torch.tensor([0.0, 1.0], dtype=torch.float64, device=device))
    u = kernels.times(key, clock)
    index = (u * len(sigmas)).long().clamp(max=len(sigmas) - 1)
    sigma = sigmas.to(device, torch.float64)[index]
    zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
    table = torch.stack([zero, one, sigma, zero, zero, one], -1).reshape(-1, 2, 3)
    padding = padding_of(mask, data)
    _, x, z = bridged(None, data, table, u, key, padding)
    told = index if condition == "index" else sigma.to(x.dtype)
    score = check_output(called(net, x, (told,), merged(net_kwargs, kwargs)), z.shape, z.device)
    level = per_row(sigma.to(x.dtype), x)
    return reduced(sum_square(level * score + z, padding) / 2, None, reduction)
