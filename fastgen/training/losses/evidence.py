"""Losses of latent models: the evidence bound of a VAE, and with a score model as its prior."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fastgen.common.checks import check_nonnegative, check_positive, check_shape, rows_of
from fastgen.model.model import Model, check_model, merged
from fastgen.training.losses.denoising import denoising, likelihood
from fastgen.training.losses.reduction import reduced, sum_square
from fastgen.training.times import Times, uniform


def gaussian_negative_log_likelihood(output: Tensor, data: Tensor, variance: float) -> Tensor:
    """-log N(data; output, variance) in nats, summed over elements, [B]."""
    check_positive("variance", variance)
    check_shape("output", output, data.shape)
    constant = data[0].numel() * math.log(2 * math.pi * variance) / 2 if len(data) else 0.0
    return sum_square(output - data) / (2 * variance) + constant


def standard_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp log_variance) | N(0, 1)) in nats, summed over elements, [B]."""
    check_shape("log_variance", log_variance, mean.shape)
    return rows_of(mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2


def evidence_bound(
    output: Tensor,
    data: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    *,
    beta: float = 1.0,
    variance: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """-log N(data; output, variance) + beta KL(q(z | x) | N(0, 1)), in nats, summed over elements.

    With beta = 1 and output the decoder's mean at a z drawn from q, its expectation is no less than
    -log p(data), and equal where q is the true posterior: Kingma and Welling 2014 (arXiv
    1312.6114). beta: Higgins et al. 2017; small ones for first stages of latent models.

    Args:
        output: the decoder's mean [B, ...].
        data: [B, ...].
        mean, log_variance: of q, [B, ...].
        beta: weight of the divergence.
        variance: of the decoder.
        weight: [B].
        reduction: "mean", or "none" for [B].
    """
    check_nonnegative("beta", beta)
    loss = gaussian_negative_log_likelihood(output, data, variance)
    return reduced(loss + beta * standard_divergence(mean, log_variance), weight, reduction)


def latent_cross_entropy(
    model: Model,
    latent: Tensor,
    *,
    seed: int | Tensor = 0,
    step: int = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    times: Times | None = None,
    t: Tensor | None = None,
    reduction: str = "mean",
    net_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """CE(q(z_0 | x) | p(z_0)) of a score model p, in nats, by denoising score matching.

        int_low^1 g^2 / (2 sigma^2) E|eps - eps_model(z_t, t)|^2 dt + D/2 log(2 pi e sigma_low^2)

    with z_t = alpha z_0 + sigma eps: Vahdat et al. 2021 (LSGM, arXiv 2106.05931), theorem 1, for a
    process that ends in N(0, 1). The integral is estimated at one time for each row. Differentiable
    in ``latent``, so that an encoder learns with its prior.

    Args:
        model: network, schedule and prediction (any but "edm").
        latent: z_0 [B, ...], drawn from q(z_0 | x).
        seed, step, sample_ids: of times and noise; see `Path.sample`.
        times: their distribution; an importance-sampled one (`times.likelihood`) has a smaller
            variance. The default is uniform and stratified between 1e-3 and 1.
        t: times [B] that were drawn from that distribution elsewhere.
        reduction: "mean", or "none" for [B].
        net_kwargs, **kwargs: handed to the network; net_kwargs is a dictionary for names that
            mean something else here, such as seed.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    check_model(model)
    if model.predicts == "edm":
        raise ValueError("model: 'edm' scales its input; expected a network that is fed z_t")
    data_at = model.parametrisation.data_at
    if times is None:
        ends = (1e-3, 1.0) if data_at == 0 else (0.0, 1 - 1e-3)
        times = uniform(*ends, sampling="stratified")
    low = times.quantiles[0] if data_at == 0 else 1 - times.quantiles[-1]
    sigma = model.schedule.sigma(float(low))
    if not sigma > 0:
        raise ValueError("times: expected ones that keep away from the data, where sigma is 0")

    def weighting(model: Model, s: Tensor) -> Tensor:
        t = 1 - s if data_at == 1 else s
        return likelihood(model, s) / times.density(t)

    keys: dict[str, Any] = {"seed": seed, "step": step, "sample_ids": sample_ids}
    arguments = merged(net_kwargs, kwargs)
    mean = denoising(
        model,
        latent,
        t,
        **keys,
        times=times,
        weighting=weighting,
        reduction="none",
        net_kwargs=arguments,
    )
    size = latent[0].numel() if len(latent) else 0
    entropy = math.log(2 * math.pi * math.e * sigma**2) / 2
    return reduced(size * (mean / 2 + entropy), None, reduction)


def score_prior_bound(
    model: Model,
    output: Tensor,
    data: Tensor,
    latent: Tensor,
    log_variance: Tensor,
    *,
    variance: float = 1.0,
    beta: float = 1.0,
    seed: int | Tensor = 0,
    step: int = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    times: Times | None = None,
    t: Tensor | None = None,
    reduction: str = "mean",
    net_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """LSGM: the bound of a VAE whose prior is a score model, in nats.

        -log N(data; output, variance) + beta (CE(q(z | x) | p(z)) - entropy of q(z | x))

    Vahdat et al. 2021 (arXiv 2106.05931). Encoder, decoder and prior learn together.

    Args:
        model: the prior, see `latent_cross_entropy`.
        output: the decoder's mean at ``latent``, [B, ...].
        data: [B, ...].
        latent: drawn from q = N(mean, exp log_variance), with its gradient, [B, ...].
        log_variance: of q, [B, ...].
        variance: of the decoder.
        beta: weight of the divergence, raised from 0 as training begins.
        seed, step, sample_ids, times, t, net_kwargs: see `latent_cross_entropy`.
        reduction: "mean", or "none" for [B].
    """
    check_shape("log_variance", log_variance, latent.shape)
    keys: dict[str, Any] = {"seed": seed, "step": step, "sample_ids": sample_ids, "t": t}
    keys |= {"times": times, "reduction": "none"}
    arguments = merged(net_kwargs, kwargs)
    cross = latent_cross_entropy(model, latent, **keys, net_kwargs=arguments)
    entropy = rows_of(log_variance + math.log(2 * math.pi * math.e)).sum(1) / 2
    loss = gaussian_negative_log_likelihood(output, data, variance) + beta * (cross - entropy)
    return reduced(loss, None, reduction)
