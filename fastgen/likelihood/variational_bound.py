"""The variational bound of DDPM: an upper bound of -log p(x) term by term."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import (
    check_at_least,
    check_choice,
    check_floating,
    check_pair,
    rows_of,
)
from fastgen.common.compiling import uncompiled
from fastgen.common.display import displayed, extent
from fastgen.common.padding import Padding
from fastgen.common.transforms import BACKWARD, untransformed
from fastgen.common.typed import typed
from fastgen.kernels import Stream
from fastgen.model.model import Instant, Model, check_model, merged
from fastgen.noise.normals import randn
from fastgen.schedules import DiscreteVP


@displayed
@dataclass(frozen=True)
class VariationalBound:
    """Terms in nats, float64.

    prior: [B], KL(q(x_T | x_0) || N(0, 1)). transitions: [N - 1, B], KL of q(x_{t-1} | x_t, x_0)
    and p(x_{t-1} | x_t) for t = 2 .. N. reconstruction: [B], -log p(x_0 | x_1). dimensions: of a
    sample; with padding the live ones of each, [B].
    """

    prior: Tensor
    transitions: Tensor
    reconstruction: Tensor
    dimensions: int | Tensor

    def _facts(self) -> dict[str, Any]:
        names = ("total", "prior", "reconstruction", "bits_per_dimension")
        facts: dict[str, Any] = {name: extent(getattr(self, name)) for name in names}
        return {**facts, "transitions": self.transitions, "dimensions": self.dimensions}

    @property
    def total(self) -> Tensor:
        """The bound of -log p(x), [B]."""
        return self.prior + self.transitions.sum(0) + self.reconstruction

    @property
    def bits_per_dimension(self) -> Tensor:
        """The bound in bits per dimension, [B]."""
        return self.total / (self.dimensions * math.log(2))


@uncompiled
@untransformed(BACKWARD)
@typed
def variational_bound(
    model: Model,
    x: Tensor,
    *,
    variance: str = "small",
    levels: int | None = None,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    clip: tuple[float, float] | None = None,
    mask: Tensor | None = None,
    net_kwargs: Mapping[str, Any] | None = None,
) -> VariationalBound:
    """The discrete variational bound of a model on a `DiscreteVP` schedule of N steps.

    L = KL(q(x_N|x_0) || N(0, 1)) + sum_t KL(q(x_{t-1}|x_t,x_0) || p(x_{t-1}|x_t)) - log p(x_0|x_1)
    (Ho et al. 2020, arXiv 2006.11239, eq. 5; Nichol and Dhariwal 2021, arXiv 2102.09672), one
    draw of x_t for each term and N calls of the network. p's mean is q's with the model's data
    prediction for x_0.

    Args:
        model: on a `DiscreteVP` schedule; any prediction.
        x: data [B, ...].
        variance: of p: "small", that of q(x_{t-1} | x_t, x_0) (that of the next step for the
            first, where it is zero); "large", beta_t; "learned", the interpolation of a network
            with twice the channels.
        levels: number of levels of data on a grid in [-1, 1] (256, say): p(x_0 | x_1) is then a
            Gaussian summed over the cell of x_0; otherwise its density.
        seed, sample_ids: of the noise, draw t of the training stream for term t.
        clip: bounds of the data prediction.
        mask: for samples of different lengths, True where an element of x is live; any shape that
            broadcasts to it. Terms are those of the live elements; padding is 0 for the network.
        net_kwargs: for the network.

    Raises:
        ValueError: naming the argument.
    """
    check_model(model)
    check_floating("x", x)
    schedule = model.schedule
    if not isinstance(schedule, DiscreteVP):
        raise ValueError(f"model: the bound is for a DiscreteVP schedule, got {schedule!r}")
    check_choice("variance", variance, ("small", "large", "learned"))
    if (variance == "learned") and not model.learned_variance:
        raise ValueError("variance='learned': pass Model(..., learned_variance=True)")
    if levels is not None:
        check_at_least("levels", levels, 2)
    low, high = (-math.inf, math.inf) if clip is None else check_pair("clip", clip)
    if not low < high:
        raise ValueError(f"clip={clip!r}: expected (low, high) with low < high")
    arguments = merged(net_kwargs, {})
    padding = None if mask is None else Padding(mask, x, name="data")
    dimensions = x[:1].numel() if padding is None else padding.count[:, 0]

    def clear(x: Tensor) -> Tensor:
        cleared: Tensor = x if padding is None else padding.clear(x)
        return cleared

    count, data = schedule.num_steps, clear(x.double())
    terms = []
    with torch.no_grad():
        for n in range(1, count + 1):
            t, s = n / count, (n - 1) / count
            alpha, sigma = schedule.alpha(t), schedule.sigma(t)
            noise = randn(
                x.shape,
                seed=seed,
                sample_ids=sample_ids,
                draw=n,
                stream=Stream.TRAINING,
                dtype=torch.float64,
                device=x.device,
            )
            state = clear(alpha * data + sigma * noise)
            predicted, spread = _predict(model, state.to(x.dtype), t, arguments)
            if clip is not None:
                predicted = predicted.clamp(*clip)
            ratio = alpha / schedule.alpha(s)
            beta = sigma**2 - ratio**2 * schedule.sigma(s) ** 2
            weight = schedule.alpha(s) * beta / sigma**2
            posterior = beta * schedule.sigma(s) ** 2 / sigma**2
            least = posterior if n > 1 else _posterior(schedule, min(2, count))
            log_variance: Any = math.log(least if variance != "large" else max(beta, least))
            if variance == "learned":
                share = (spread.double() + 1) / 2
                log_variance = share * math.log(beta) + (1 - share) * math.log(least)
            log_variance = torch.as_tensor(log_variance, dtype=torch.float64, device=x.device)
            if n == 1:
                found = _reconstruction(data, predicted, log_variance.expand_as(data), levels)
                terms.append(rows_of(clear(found)).sum(1))
                continue
            apart = (weight * (data - predicted)).square() / log_variance.exp()
            log_ratio = log_variance - math.log(posterior)
            kl = 0.5 * (log_ratio + torch.exp(-log_ratio) + apart - 1)
            terms.append(rows_of(clear(kl)).sum(1))
    alpha, sigma = schedule.alpha(1.0), schedule.sigma(1.0)
    prior = clear(0.5 * ((alpha * data).square() + sigma**2 - 1 - 2 * math.log(sigma)))
    transitions = torch.stack(terms[1:]) if count > 1 else data.new_zeros(0, len(x))
    return VariationalBound(rows_of(prior).sum(1), transitions, terms[0], dimensions)


def _posterior(schedule: DiscreteVP, n: int) -> float:
    """The variance of q(x_{n-1} | x_n, x_0); for a single step that of q(x_1 | x_0)."""
    t, s = n / schedule.num_steps, (n - 1) / schedule.num_steps
    ratio = schedule.alpha(t) / schedule.alpha(s)
    before = schedule.sigma(s) ** 2
    beta = schedule.sigma(t) ** 2 - ratio**2 * before
    return beta * before / schedule.sigma(t) ** 2 if before else beta


def _predict(
    model: Model, x: Tensor, t: float, net_kwargs: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """The data prediction in float64, and the raw variance output if there is one."""
    p, q = model.parametrisation.conversion("data", t)
    scaled = (x * model.parametrisation.input_scale(t)).to(model.input_dtype(x.dtype))
    (times,) = model.times([Instant(t)], x.shape[0], x.device)
    found = model.outputs(scaled, times, net_kwargs, f"t={t:.6g}")
    output, spread = found[0].double(), found[-1].double()
    return p * x.double() + q * output, spread


def _reconstruction(data: Tensor, mean: Tensor, log_variance: Tensor, levels: int | None) -> Tensor:
    """-log p(x_0 | x_1) of each element, by density or summed over the cell of each level."""
    z = (data - mean) * torch.exp(-log_variance / 2)
    if levels is None:
        log_density = -0.5 * (z.square() + log_variance + math.log(2 * math.pi))
        return -log_density
    half = torch.exp(-log_variance / 2) / (levels - 1)
    upper, lower = torch.special.log_ndtr(z + half), torch.special.log_ndtr(z - half)
    # log(Phi(b) - Phi(a)) in the tail where both are small, by symmetry.
    flip = z > 0
    high = torch.where(flip, torch.special.log_ndtr(-(z - half)), upper)
    low = torch.where(flip, torch.special.log_ndtr(-(z + half)), lower)
    inside = high + torch.log(-torch.expm1((low - high).clamp(max=-1e-300)))
    first, last = data < -1 + 1 / (levels - 1), data > 1 - 1 / (levels - 1)
    inside = torch.where(first, upper, inside)
    inside = torch.where(last, torch.special.log_ndtr(-(z - half)), inside)
    return -inside
