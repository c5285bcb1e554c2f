"""Variance-exploding processes: alpha = 1."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from fastgen.schedules.base import Schedule, register, set_real

# The time just above 0 that stands for 0+: float32's smallest normal number, so that a tensor
# in float32 keeps it.
_JUST_ABOVE_ZERO = 2.0**-126


class VarianceExploding(Schedule):
    """alpha = 1, so x_t = x_0 + sigma(t) eps and the ratio is sigma itself."""

    _fast_on_floats = True
    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        set_real(self, "sigma_max", 0, math.inf, "give a positive noise scale such as 80.0")
        remedy = f"give a noise scale with 0 < sigma_min < sigma_max = {self.sigma_max}"
        set_real(self, "sigma_min", 0, self.sigma_max, remedy)

    @property
    def default_grid(self) -> str:
        """Karras: even times would put nearly all points where the noise drowns the data."""
        return "karras"

    def regular_at(self, t: float) -> bool:
        """False at t = 0 too: networks of these processes are not defined at sigma = 0."""
        return t > 0 and super().regular_at(t)

    def _alpha(self, t: Any, xp: Any) -> Any:
        return xp.ones_like(t)

    def _d_alpha(self, t: Any, xp: Any) -> Any:
        return xp.zeros_like(t)


@register
@dataclasses.dataclass(frozen=True)
class VE(VarianceExploding):
    """alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t for t > 0, and sigma(0) = 0.

    sigma_min, sigma_max: noise scales next to data and at noise. sigma jumps at t = 0 from 0 to
    sigma(0+) = sigma_min: there d_sigma is inf and diffusion_squared its limit from above. No
    time belongs to a ratio between 0 and sigma_min: `time_at_ratio` refuses it, and gives
    sigma_min the time 2^-126.
    The VE process of Song et al. 2021 (arXiv 2011.13456), NCSN (1907.05600) in continuous time.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    @property
    def t_min(self) -> float:
        """1e-5, the last time at which Song et al. evaluate."""
        return 1e-5

    @property
    def _log_span(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def _positive_sigma(self, t: Any, xp: Any) -> Any:
        return self.sigma_max * xp.exp((t - 1) * self._log_span)

    def _sigma(self, t: Any, xp: Any) -> Any:
        return xp.where(t > 0, self._positive_sigma(t, xp), 0.0)

    def _d_sigma(self, t: Any, xp: Any) -> Any:
        return xp.where(t > 0, self._positive_sigma(t, xp) * self._log_span, math.inf)

    def _diffusion_squared(self, t: Any, xp: Any) -> Any:
        sigma = self._positive_sigma(t, xp)
        return 2 * self._log_span * (sigma * sigma)

    def _ratio_floor(self) -> float:
        return self.sigma_min

    def _time_at_ratio(self, ratio: Any, xp: Any) -> Any:
        t = 1 + xp.log(ratio / self.sigma_max) / self._log_span
        return xp.where(ratio > 0, xp.clip(t, _JUST_ABOVE_ZERO, None), 0.0)


@register
@dataclasses.dataclass(frozen=True)
class EDM(VarianceExploding):
    """alpha = 1, sigma = sigma_max t.

    sigma_min: smallest noise scale the network was trained on, which sets t_min; sigma_max: noise
    scale at t = 1; sigma_data: standard deviation of data in the network's preconditioning.
    Karras et al. 2022 (arXiv 2206.00364), whose time is sigma itself.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        set_real(self, "sigma_data", 0, math.inf, "give the standard deviation of data, e.g. 0.5")

    @property
    def t_min(self) -> float:
        """The time of sigma_min."""
        return self.sigma_min / self.sigma_max

    def _sigma(self, t: Any, xp: Any) -> Any:
        return self.sigma_max * t

    def _d_sigma(self, t: Any, xp: Any) -> Any:
        return xp.full_like(t, self.sigma_max)

    def _time_at_ratio(self, ratio: Any, xp: Any) -> Any:
        return ratio / self.sigma_max
