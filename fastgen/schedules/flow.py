"""Straight interpolation between data and noise."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any

from fastgen.schedules.base import Number, Schedule, evaluate, register, set_real


@register
@dataclasses.dataclass(frozen=True)
class Rectified(Schedule):
    """alpha = 1 - t, sigma = t.

    shift: time grids place their points at warp(t) = shift t / (1 + (shift - 1) t) instead of
    at t (Stable Diffusion 3 and Flux use 3.0). alpha and sigma NEVER depend on it: the shift is
    a property of the grid, so it cannot be applied twice. Give the network the grid's times.
    For a shift that depends on the resolution see `dynamic_shift`.
    Flow matching of Lipman et al. 2023 (arXiv 2210.02747) with time reversed, rectified flow of
    Liu et al. 2023 (2209.03003); the shift is eq. 23 of Esser et al. 2024 (2403.03206).
    """

    shift: float = 1.0

    _fast_on_floats = True

    def __post_init__(self) -> None:
        set_real(self, "shift", 0, math.inf, "give shift > 0; 1.0 leaves time grids alone")

    def warp(self, t: Number) -> Number:
        """Where a grid point t goes: shift t / (1 + (shift - 1) t)."""
        return evaluate(lambda t, xp: self.shift * t / (1 + (self.shift - 1) * t), t, fast=True)

    def unwarp(self, t: Number) -> Number:
        """The inverse of `warp`: t / (shift + (1 - shift) t)."""
        return evaluate(lambda t, xp: t / (self.shift + (1 - self.shift) * t), t, fast=True)

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


def dynamic_shift(
    tokens: int,
    *,
    base_tokens: int = 256,
    max_tokens: int = 4096,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
    kind: str = "exponential",
) -> float:
    """The `shift` of `Rectified` for an image or video of `tokens` tokens: exp(mu), or mu.

    mu = base_shift + (max_shift - base_shift) (tokens - base_tokens) / (max_tokens - base_tokens),
    also beyond these bounds. tokens: the length of the network's sequence, such as height * width
    / 256 for a latent of 1/8 the size in patches of 2 x 2. kind: "exponential" gives exp(mu),
    "linear" mu itself. The defaults are Flux's (Black Forest Labs 2024); mu is diffusers' own.

    Rectified(dynamic_shift(4096)) is all there is to it: the shift lives in the schedule, time
    grids apply it once, and no grid has an option to apply it again. It replaces a static shift
    and is not multiplied with one.

    Raises:
        ValueError: naming the argument.
    """
    sizes = {"tokens": tokens, "base_tokens": base_tokens, "max_tokens": max_tokens}
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"{name} = {value!r} is not a positive integer; give 1 or more")
    if base_tokens == max_tokens:
        raise ValueError(f"base_tokens = max_tokens = {base_tokens}; give two different lengths")
    if kind not in ("exponential", "linear"):
        raise ValueError(f"kind = {kind!r} is unknown; give 'exponential' or 'linear'")
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    mu = base_shift + slope * (tokens - base_tokens)
    if kind == "exponential" and -700 < mu < 700:
        return math.exp(mu)
    if kind == "linear" and 0 < mu < math.inf:
        return mu
    raise ValueError(
        f"base_shift = {base_shift!r} and max_shift = {max_shift!r} make mu = {mu!r} at tokens = "
        f"{tokens}, no {kind} shift; give others"
    )
