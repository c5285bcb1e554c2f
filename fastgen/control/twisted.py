"""Twisted sequential Monte Carlo: a system of samples that is exact in the limit of many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_fraction, check_positive, check_whole, per_row, rows_of
from fastgen.common.display import displayed
from fastgen.common.modes import unrecorded
from fastgen.common.transforms import BACKWARD, untransformed
from fastgen.control.resampling import effective, systematic, uniform
from fastgen.kernels import Stream
from fastgen.model.model import Model
from fastgen.noise.keys import id_tensor, seed_tensor
from fastgen.noise.normals import normals
from fastgen.observations import Gaussian, Observation, PiGDM, conditioned
from fastgen.observations.conditioned import ConditionedNetwork
from fastgen.observations.solving import conjugate_gradients
from fastgen.solvers import plan


@displayed
@dataclass(frozen=True)
class Twisted:
    """Twisted diffusion sampler (Wu et al. 2023, arXiv 2306.17775, Alg. 1).

    The steps are those of "ddpm" with PiGDM's data prediction, and samples are weighted by what
    that leaves out, so that for many samples the result is exact but for the steps and the last of
    them. The twisting function is N(y; A D, r^2 A A^T + Sigma). Where the weights' effective number
    falls below ``threshold`` of the samples they are drawn anew among themselves (systematic
    resampling): the samples are then not independent of each other.

    Args:
        data_std: deviation of the data, in r^2 (see `fastgen.observations.PiGDM`).
        threshold: in (0, 1]; 1 draws anew in each step.
        iterations: of conjugate gradients for A A^T.
    """

    data_std: float = 1.0
    threshold: float = 0.5
    iterations: int = 20

    def __post_init__(self) -> None:
        check_positive("data_std", self.data_std)
        check_fraction("threshold", self.threshold)
        check_whole("iterations", self.iterations, 1)


@untransformed(BACKWARD)
def twisted(
    model: Model,
    observation: Observation,
    shape: tuple[int, ...],
    method: Twisted,
    steps: int,
    net_kwargs: Mapping[str, Any],
    *,
    seed: int | Sequence[int] | Tensor,
    sample_ids: Sequence[int] | Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """One system of B samples; see `Twisted`.

    Raises:
        ValueError: for observations without noise or of another kind than Gaussian, or that differ
            between samples.
    """
    if observation.noise.none or not isinstance(observation.noise, Gaussian):
        raise ValueError(
            f"method: Twisted weighs samples by a Gaussian likelihood, the observation's noise is "
            f"{observation.noise!r}; give a deviation above 0"
        )
    if any(len(x) != 1 for x in observation.tensors.values()):
        raise ValueError(
            "observation: all samples of Twisted are of one system; give an observation of one "
            "row, and call it once for each"
        )
    kept = _Kept(model, observation, method, net_kwargs)
    schedule = model.schedule
    times = plan("ddpm", schedule, steps).times.tolist()
    seeds, ids = seed_tensor(seed, shape[0], device), id_tensor(sample_ids, shape[0], device)
    system = torch.zeros(1, dtype=torch.int64, device=device)

    def noise(draw: int) -> Tensor:
        return normals(shape, seeds, ids, draw, Stream.SOLVER if draw else 0, dtype)

    with unrecorded(model.net):
        x: Tensor = noise(0) * schedule.sigma(times[0])
        data, guided, twist = kept.at(x, times[0])
        weights = twist
        for i, (s, t) in enumerate(pairwise(times)):
            if float(effective(weights)) < method.threshold * len(x) or i == len(times) - 2:
                chosen = systematic(weights[None], uniform(seeds[:1], system, i))[0]
                x, data, guided, twist = x[chosen], data[chosen], guided[chosen], twist[chosen]
                weights = torch.zeros_like(twist)
            h = schedule.half_log_snr(t) - schedule.half_log_snr(s)
            ratio = math.exp(-h) * schedule.sigma(t) / schedule.sigma(s)
            weight = -schedule.alpha(t) * math.expm1(-2 * h)
            std = schedule.sigma(t) * math.sqrt(-math.expm1(-2 * h))
            x = ratio * x + weight * guided
            if i == len(times) - 2:
                return x + std * noise(i + 1) if std else x
            z, shift = noise(i + 1), weight / std * (guided - data)
            x = x + std * z
            # log p(x | before) - log q(x | before) of the prior's step and the one made.
            weights = weights - (rows_of(shift) * (rows_of(z) + rows_of(shift) / 2)).sum(1)
            data, guided, after = kept.at(x, t)
            weights, twist = weights + after - twist, after
    return x


class _Kept:
    """The twisting function and its gradient at states of one time."""

    def __init__(
        self, model: Model, observation: Observation, method: Twisted, kwargs: Mapping[str, Any]
    ) -> None:
        pigdm = PiGDM(method.data_std, iterations=method.iterations)
        network = conditioned(model, observation, pigdm).net
        assert isinstance(network, ConditionedNetwork)
        self._network, self._method, self._kwargs = network, method, kwargs

    def at(self, x: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
        """D, the data prediction of the proposal, and log of the twisting function [B]."""
        now = torch.full((len(x),), t, dtype=torch.float64, device=x.device)
        point = self._network.point(x, now, None, self._kwargs)
        near, prior = point.near, point.prior(self._method.data_std)
        wide = per_row(prior, near.residual)

        def apply(w: Tensor) -> Tensor:
            return wide * near.forward(near.transpose(w)) + near.variance * w

        solved = conjugate_gradients(apply, near.residual, self._method.iterations)
        twist = -(rows_of(solved) * rows_of(near.residual)).sum(1) / 2
        return point.data, point.data + point.covariance(near.transpose(solved)), twist
