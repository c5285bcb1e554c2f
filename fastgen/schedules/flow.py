"""Straight interpolation between data and noise."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from fastgen.schedules.base import Schedule, Value, evaluate, register, set_real


@register
@dataclasses.dataclass(frozen=True)
class Rectified(Schedule):
    """alpha = 1 - t, sigma = t.

    shift: time grids place their points at warp(t) = shift t / (1 + (shift - 1) t) instead of
    at t (Stable Diffusion 3 and Flux use 3.0). alpha and sigma NEVER depend on it: the shift is
    a property of the grid, so it cannot be applied twice. Give the network the grid's times.
    Flow matching of Lipman et al. 2023 (arXiv 2210.02747) with time reversed, rectified flow of
    Liu et al. 2023 (2209.03003); the shift is eq. 23 of Esser et al. 2024 (2403.03206).
    """

    shift: float = 1.0

    def __post_init__(self) -> None:
        set_real(self, "shift", 0, math.inf, "give shift > 0; 1.0 leaves time grids alone")

    def warp(self, t: Value) -> Value:
        """Where a grid point t goes: shift t / (1 + (shift - 1) t)."""
        return evaluate(lambda t, xp: self.shift * t / (1 + (self.shift - 1) * t), t)

    def unwarp(self, t: Value) -> Value:
        """The inverse of `warp`: t / (shift + (1 - shift) t)."""
        return evaluate(lambda t, xp: t / (self.shift + (1 - self.shift) * t), t)

    def _alpha(self, t: Any, xp: Any) -> Any:
        return 1 - t

    def _sigma(self, t: Any, xp: Any) -> Any:
        return t

    def _d_alpha(self, t: Any, xp: Any) -> Any:
        return -xp.ones_like(t)

    def _d_sigma(self, t: Any, xp: Any) -> Any:
        return xp.ones_like(t)

    def _diffusion_squared(self, t: Any, xp: Any) -> Any:
        return 2 * t / (1 - t)

    def _time_at_ratio(self, ratio: Any, xp: Any) -> Any:
        return 1 / (1 + 1 / ratio)
