"""Variance-preserving processes, sigma^2 = 1 - alpha^2, and the sub-VP relative."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from fastgen.schedules.base import Schedule, register, set_real


class VariancePreserving(Schedule):
    """alpha^2 + sigma^2 = 1, hence d_sigma = -alpha d_alpha / sigma and g^2 = -2 f."""

    _fast_on_floats = True

    def _d_sigma(self, t: Any, xp: Any) -> Any:
        return -self._alpha(t, xp) * self._d_alpha(t, xp) / self._sigma(t, xp)

    def _diffusion_squared(self, t: Any, xp: Any) -> Any:
        return -2 * self._drift(t, xp)


def noise_scale(log_alpha: Any, xp: Any) -> Any:
    """sqrt(1 - alpha^2) without cancellation; 0.0 - x, as -x would give sqrt(-0.0) = -0.0."""
    return xp.sqrt(0.0 - xp.expm1(2 * log_alpha))


def minus_log_alpha(ratio: Any, xp: Any) -> Any:
    """-log alpha = log(1 + ratio^2) / 2 of a variance-preserving process."""
    large = ratio > 1e8  # the square could overflow, and 1 no longer counts
    small = xp.where(large, 0.0, ratio)
    return xp.where(large, xp.log(ratio), xp.log1p(small * small) / 2)


class _LinearBeta(Schedule):
    """log alpha = -(beta_max - beta_min) t^2 / 4 - beta_min t / 2."""

    _fast_on_floats = True
    beta_min: float
    beta_max: float

    def __post_init__(self) -> None:
        set_real(self, "beta_max", 0, math.inf, "give a positive rate such as 20.0")
        remedy = f"give a rate with 0 < beta_min <= beta_max = {self.beta_max}, such as 0.1"
        set_real(self, "beta_min", 0, self.beta_max, remedy, closed=True)

    def _log_alpha(self, t: Any, xp: Any) -> Any:
        return -(self.beta_max - self.beta_min) / 4 * t * t - self.beta_min / 2 * t

    def _alpha(self, t: Any, xp: Any) -> Any:
        return xp.exp(self._log_alpha(t, xp))

    def _drift(self, t: Any, xp: Any) -> Any:
        return -(self.beta_min + (self.beta_max - self.beta_min) * t) / 2

    def _d_alpha(self, t: Any, xp: Any) -> Any:
        return self._drift(t, xp) * self._alpha(t, xp)

    def _time_at_log_alpha(self, minus_log_alpha: Any, xp: Any) -> Any:
        # The stable root of the quadratic; bounded, as inf / inf would be nan; t is clamped later.
        c = 2 * xp.clip(minus_log_alpha, None, 1e100)
        root = xp.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * c)
        return 2 * c / (self.beta_min + root)


@register
@dataclasses.dataclass(frozen=True)
class LinearVP(_LinearBeta, VariancePreserving):
    """dx = -beta(t)/2 x dt + sqrt(beta(t)) dW, beta(t) = beta_min + (beta_max - beta_min) t.

    alpha = exp(-(beta_max - beta_min) t^2 / 4 - beta_min t / 2), sigma = sqrt(1 - alpha^2).
    beta_min, beta_max: noise rates at data and at noise.
    The VP process of Song et al. 2021 (arXiv 2011.13456), DDPM (2006.11239) in continuous time.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _sigma(self, t: Any, xp: Any) -> Any:
        return noise_scale(self._log_alpha(t, xp), xp)

    def _time_at_ratio(self, ratio: Any, xp: Any) -> Any:
        return self._time_at_log_alpha(minus_log_alpha(ratio, xp), xp)


@register
@dataclasses.dataclass(frozen=True)
class SubVP(_LinearBeta):
    """dx = -beta(t)/2 x dt + sqrt(beta(t) (1 - alpha^4)) dW, with alpha and beta of `LinearVP`.

    alpha = exp(-(beta_max - beta_min) t^2 / 4 - beta_min t / 2), sigma = 1 - alpha^2.
    beta_min, beta_max: noise rates at data and at noise.
    The sub-VP process of Song et al. 2021 (arXiv 2011.13456), of smaller variance than VP.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _sigma(self, t: Any, xp: Any) -> Any:
        return 0.0 - xp.expm1(2 * self._log_alpha(t, xp))

    def _d_sigma(self, t: Any, xp: Any) -> Any:
        return -2 * self._alpha(t, xp) * self._d_alpha(t, xp)

    def _diffusion_squared(self, t: Any, xp: Any) -> Any:
        return 2 * self._drift(t, xp) * xp.expm1(4 * self._log_alpha(t, xp))

    def _time_at_ratio(self, ratio: Any, xp: Any) -> Any:
        # ratio = 1/alpha - alpha = 2 sinh(-log alpha)
        return self._time_at_log_alpha(xp.arcsinh(ratio / 2), xp)


@register
@dataclasses.dataclass(frozen=True)
class CosineVP(VariancePreserving):
    """alpha = cos(a + d) / cos(a), sigma = sqrt(1 - alpha^2), a + d = pi/2 (t + s) / (1 + s).

    s: offset that keeps the noise rate away from 0 near data; a = pi/2 s / (1 + s),
    d = pi/2 t / (1 + s). alpha(1) = 0 exactly. 1 - alpha^2 = sin(d) sin(2a + d) / cos(a)^2.
    Nichol and Dhariwal 2021 (arXiv 2102.09672).
    """

    s: float = 0.008

    def __post_init__(self) -> None:
        set_real(self, "s", 0, math.inf, "give s > 0 such as 0.008, or use Trig() for s = 0")

    @property
    def t_max(self) -> float:
        """0.9946 (Lu et al. 2022, arXiv 2206.00927): at alpha(1) = 0 noise says nothing of data."""
        return 0.9946

    @property
    def _a(self) -> float:
        return math.pi / 2 * self.s / (1 + self.s)

    @property
    def _rate(self) -> float:
        return math.pi / 2 / (1 + self.s)

    def _alpha(self, t: Any, xp: Any) -> Any:
        # Each form is exact at its own end: 1 at t = 0, 0 at t = 1.
        d, rest = self._rate * t, self._rate * (1 - t)
        early = xp.cos(d) - math.tan(self._a) * xp.sin(d)
        return xp.where(t < 0.5, early, xp.sin(rest) / math.cos(self._a))

    def _sigma(self, t: Any, xp: Any) -> Any:
        d = self._rate * t
        return xp.sqrt(xp.sin(d) * xp.sin(2 * self._a + d)) / math.cos(self._a)

    def _d_alpha(self, t: Any, xp: Any) -> Any:
        return -self._rate * xp.sin(self._a + self._rate * t) / math.cos(self._a)

    def _time_at_ratio(self, ratio: Any, xp: Any) -> Any:
        # d from its sine and cosine, with the sine in the form that does not cancel at t = 0.
        sine, cosine = math.sin(self._a), math.cos(self._a)
        alpha, sigma = 1 / xp.sqrt(1 + ratio * ratio), 1 / xp.sqrt(1 + 1 / ratio / ratio)
        root = xp.hypot(sigma, sine * alpha)
        d = xp.arctan2(
            cosine * sigma * sigma / (root + sine * alpha), cosine * cosine * alpha + sine * root
        )
        return d / self._rate


@register
@dataclasses.dataclass(frozen=True)
class Trig(VariancePreserving):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2).

    The trigonometric interpolant of Albergo et al. 2023 (arXiv 2303.08797); TrigFlow of Lu and
    Song 2024 (2410.11081) with its angle = pi t / 2 and its sigma_data = 1.
    """

    def _alpha(self, t: Any, xp: Any) -> Any:
        # The cosine of the rounded pi/2 is 6e-17; the sine of the complement is 0.
        late = xp.sin(math.pi / 2 * (1 - t))
        return xp.where(t < 0.5, xp.cos(math.pi / 2 * t), late)

    def _sigma(self, t: Any, xp: Any) -> Any:
        return xp.sin(math.pi / 2 * t)

    def _d_alpha(self, t: Any, xp: Any) -> Any:
        return -math.pi / 2 * self._sigma(t, xp)

    def _d_sigma(self, t: Any, xp: Any) -> Any:
        return math.pi / 2 * self._alpha(t, xp)

    def _time_at_ratio(self, ratio: Any, xp: Any) -> Any:
        return xp.arctan(ratio) / (math.pi / 2)
