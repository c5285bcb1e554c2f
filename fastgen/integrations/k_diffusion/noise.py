"""Noise samplers: functions of two noise levels that return unit noise for the step between them.

Brownian ones are views of the library's virtual tree (`fastgen.brownian`): a function of the
seed, the sample and the time alone, without a cache that grows and without recursion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastgen.kernels as kernels
from fastgen.integrations.common.noise import NoiseSampler, fresh_seed
from fastgen.noise.keys import id_tensor, seed_tensor

KEPT = 3  # values of W: those at a step's start, middle and end are asked for again


def default_noise_sampler(x: Tensor, seed: int | None = None) -> NoiseSampler:
    """Fresh noise like x from torch's global generator, whatever the levels.

    seed: ComfyUI's argument: noise from another generator with this seed (plus 1 on CPUs, where
    ComfyUI has drawn the initial noise from the seed itself).
    """
    if seed is None:
        return lambda sigma, sigma_next: torch.randn_like(x)
    generator = torch.Generator(device=x.device)
    generator.manual_seed(seed + 1 if x.device.type == "cpu" else seed)
    return lambda sigma, sigma_next: torch.randn(
        x.shape, dtype=x.dtype, device=x.device, generator=generator
    )


class BatchedBrownianTree:
    """Increments W(t1) - W(t0) of Brownian motions on an interval, one for each element of x.

    Args:
        x: [B, ...]: shape, device and dtype of the increments.
        t0: one end of the interval.
        t1: the other; if it is the smaller one, increments change their sign.
        seed: one for the batch, whose samples have different motions; or one per sample, each
            then the same wherever it stands in a batch. None draws one from torch's generator.

    Raises:
        ValueError: if the ends are equal or not finite, or the number of seeds is not B.
    """

    def __init__(
        self, x: Tensor, t0: Any, t1: Any, seed: int | Sequence[int] | Tensor | None = None
    ) -> None:
        start, end = float(t0), float(t1)
        if start == end or not (math.isfinite(start) and math.isfinite(end)):
            raise ValueError(f"t0={start!r}, t1={end!r}: expected two finite, different times")
        self.sign = 1 if start < end else -1
        self.start, self.span = min(start, end), abs(end - start)
        if seed is None:
            seed = fresh_seed()
        self.batched = isinstance(seed, Tensor | Sequence | np.ndarray)
        batch = x.shape[0]
        self.shape, self.dtype, self.device = x.shape, x.dtype, x.device
        self.seeds = seed_tensor(seed, batch, x.device)
        if self.batched and self.seeds.numel() != batch:
            raise ValueError(f"seed: expected {batch} seeds, got {self.seeds.numel()}")
        self.ids = id_tensor([0] * batch if self.batched else None, batch, x.device)
        self.values: dict[float, Tensor] = {}

    def __call__(self, t0: Any, t1: Any) -> Tensor:
        """The increment from t0 to t1, [B, ...], of standard deviation sqrt(|t1 - t0|).

        Raises:
            ValueError: for a time outside the interval.
        """
        change = self._value(float(t1)) - self._value(float(t0))
        return (change * (self.sign * math.sqrt(self.span))).reshape(self.shape).to(self.dtype)

    def _value(self, time: float) -> Tensor:
        u = (time - self.start) / self.span
        if not -1e-6 <= u <= 1 + 1e-6:  # the levels may have been rounded to float32
            raise ValueError(
                f"time {time!r} is outside [{self.start!r}, {self.start + self.span!r}], for which "
                "the tree was made"
            )
        u = min(max(u, 0.0), 1.0)
        if u not in self.values:
            at = torch.full((1,), u, dtype=torch.float64, device=self.device)
            elements = self.shape[1:].numel()
            w = kernels.brownian(elements, self.seeds, self.ids, 0, at)[0]
            self.values = dict([*self.values.items()][-(KEPT - 1) :]) | {u: w}
        return self.values[u]


def _identity(sigma: Any) -> Any:
    return sigma


class BrownianTreeNoiseSampler:
    """Unit noise for a step as the increment of a Brownian motion in transform(sigma).

    Two runs with one seed follow one path, whatever their steps.

    Args:
        x: [B, ...]: shape, device and dtype of the noise.
        sigma_min: the lowest noise level.
        sigma_max: the highest.
        seed: see `BatchedBrownianTree`.
        transform: the motion's time as a function of sigma.
        cpu: ComfyUI's argument: where to make the noise. It is the same everywhere here, so
            both values give the same.
    """

    def __init__(
        self,
        x: Tensor,
        sigma_min: Any,
        sigma_max: Any,
        seed: int | Sequence[int] | Tensor | None = None,
        transform: Callable[[Any], Any] = _identity,
        cpu: bool = False,
    ) -> None:
        self.transform = transform
        self.tree = BatchedBrownianTree(x, self._time(sigma_min), self._time(sigma_max), seed)

    def _time(self, sigma: Any) -> float:
        if self.transform is _identity:
            return float(sigma)
        return float(self.transform(torch.as_tensor(sigma)))

    def __call__(self, sigma: Any, sigma_next: Any) -> Tensor:
        """Noise of standard deviation 1 for the step from sigma to sigma_next, 0 for none."""
        start, end = self._time(sigma), self._time(sigma_next)
        if start == end:
            return self.tree(start, end)
        return self.tree(start, end).div_(math.sqrt(abs(end - start)))
