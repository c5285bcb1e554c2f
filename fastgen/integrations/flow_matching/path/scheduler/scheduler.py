"""alpha(t) and sigma(t) with their derivatives: noise at t = 0, data at t = 1.

Lipman et al. 2023 (arXiv 2210.02747) and 2024 (arXiv 2412.06264, sec. 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen.common.display import displayed


@displayed
@dataclass
class SchedulerOutput:
    """The coefficients at times t, in the shape of t."""

    alpha_t: Tensor
    sigma_t: Tensor
    d_alpha_t: Tensor
    d_sigma_t: Tensor


@displayed
class Scheduler:
    """Coefficients of x_t = sigma_t x_0 + alpha_t x_1; t in [0, 1]."""

    def __call__(self, t: Tensor) -> SchedulerOutput:
        """The coefficients and their time derivatives."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(t)")

    def snr_inverse(self, snr: Tensor) -> Tensor:
        """The time at which alpha / sigma is snr, between 0 and infinity."""
        raise NotImplementedError(f"{type(self).__name__} must define snr_inverse(snr)")


class ConvexScheduler(Scheduler):
    """alpha + sigma = 1."""

    def kappa_inverse(self, kappa: Tensor) -> Tensor:
        """The time at which alpha is kappa."""
        raise NotImplementedError(f"{type(self).__name__} must define kappa_inverse(kappa)")

    def snr_inverse(self, snr: Tensor) -> Tensor:
        """The time at which alpha / (1 - alpha) is snr."""
        return self.kappa_inverse(1 / (1 + 1 / snr))


class PolynomialConvexScheduler(ConvexScheduler):
    """alpha = t^n, sigma = 1 - t^n; n > 0."""

    def __init__(self, n: float) -> None:
        if not 0 < n < math.inf:
            raise ValueError(f"n={n!r}: expected a positive number")
        self.n = n

    def __call__(self, t: Tensor) -> SchedulerOutput:
        """The coefficients and their time derivatives."""
        alpha, d_alpha = t**self.n, self.n * t ** (self.n - 1)
        return SchedulerOutput(alpha, 1 - alpha, d_alpha, -d_alpha)

    def kappa_inverse(self, kappa: Tensor) -> Tensor:
        """kappa^(1 / n)."""
        return kappa ** (1 / self.n)


class CondOTScheduler(PolynomialConvexScheduler):
    """alpha = t, sigma = 1 - t: straight lines."""

    def __init__(self) -> None:
        super().__init__(1)


class VPScheduler(Scheduler):
    """The variance-preserving process in s = 1 - t, with beta linear in s.

    alpha = exp(-T / 2) and sigma = sqrt(1 - exp(-T)), T = beta_min s + (beta_max - beta_min) s^2/2
    (Song et al. 2021, arXiv 2011.13456). The derivative of sigma is infinite at t = 1.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not 0 < beta_min < beta_max:
            raise ValueError(
                f"beta_min={beta_min!r}, beta_max={beta_max!r}: expected 0 < min < max"
            )
        self.beta_min, self.beta_max = beta_min, beta_max

    def __call__(self, t: Tensor) -> SchedulerOutput:
        """The coefficients and their time derivatives."""
        s, slope = 1 - t, self.beta_max - self.beta_min
        integral, beta = s * (self.beta_min + slope * s / 2), self.beta_min + slope * s
        alpha, sigma = torch.exp(-integral / 2), torch.sqrt(-torch.expm1(-integral))
        return SchedulerOutput(alpha, sigma, alpha * beta / 2, -(alpha**2) * beta / (2 * sigma))

    def snr_inverse(self, snr: Tensor) -> Tensor:
        """From T = log(1 + 1 / snr^2); 0 where snr is below that of t = 0."""
        slope = self.beta_max - self.beta_min
        integral = torch.log1p(snr**-2).clamp(max=self.beta_min + slope / 2)
        # the root of slope s^2 / 2 + beta_min s = T, without cancellation where T is small
        root = torch.sqrt(self.beta_min**2 + 2 * slope * integral)
        return 1 - 2 * integral / (self.beta_min + root)


class LinearVPScheduler(Scheduler):
    """alpha = t, sigma = sqrt(1 - t^2); the derivative of sigma is infinite at t = 1."""

    def __call__(self, t: Tensor) -> SchedulerOutput:
        """The coefficients and their time derivatives."""
        sigma = torch.sqrt((1 - t) * (1 + t))
        return SchedulerOutput(t, sigma, torch.ones_like(t), -t / sigma)

    def snr_inverse(self, snr: Tensor) -> Tensor:
        """1 / sqrt(1 + 1 / snr^2)."""
        return (1 + snr**-2) ** -0.5


class CosineScheduler(Scheduler):
    """alpha = sin(pi t / 2), sigma = cos(pi t / 2)."""

    def __call__(self, t: Tensor) -> SchedulerOutput:
        """The coefficients and their time derivatives."""
        half = math.pi / 2
        alpha, sigma = torch.sin(half * t), torch.cos(half * t)
        return SchedulerOutput(alpha, sigma, half * sigma, -half * alpha)

    def snr_inverse(self, snr: Tensor) -> Tensor:
        """2 arctan(snr) / pi."""
        return 2 / math.pi * torch.atan(snr)
