"""Grids by a curve in the ratio sigma / alpha, the sigma of EDM and k-diffusion."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fastgen.schedules import Schedule
from fastgen.timesteps.checks import positive
from fastgen.timesteps.registry import Times, register


@register("log_snr")
def log_snr(
    schedule: Schedule, steps: int, start: float, end: float, *, ratio_max: float = 80.0
) -> Times:
    """log(alpha / sigma) evenly spaced from `start` to t_min, then `end`.

    With end > 0, evenly spaced from `start` to `end`. Where alpha(start) = 0 the first time is
    the one at which sigma / alpha = ratio_max, as nothing is evenly spaced from infinity.
    Lu et al. 2022 (arXiv 2206.00927); diffusers' `use_lu_lambdas`.
    """

    def ramp(high: float, low: float, count: int) -> Times:
        return np.exp(np.linspace(math.log(high), math.log(low), count))

    limit = positive("ratio_max", ratio_max)
    return on_ratio(ramp, schedule, steps, start, end, None, None, limit)


@register("karras")
def karras(
    schedule: Schedule,
    steps: int,
    start: float,
    end: float,
    *,
    rho: float = 7.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Times:
    """r^(1/rho) evenly spaced on r = sigma / alpha from sigma_max to sigma_min, then `end`.

    sigma_max: r(start) by default, or 80 where that is infinite; sigma_min: r(t_min) by default,
    or with end > 0 r(end), which is then the last point. Karras et al. 2022 (arXiv 2206.00364).
    """
    power = positive("rho", rho)

    def ramp(high: float, low: float, count: int) -> Times:
        first, last = high ** (1 / power), low ** (1 / power)
        return np.asarray(np.linspace(first, last, count) ** power)

    return on_ratio(ramp, schedule, steps, start, end, sigma_min, sigma_max)


@register("exponential")
def exponential(
    schedule: Schedule,
    steps: int,
    start: float,
    end: float,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Times:
    """log(sigma / alpha) evenly spaced from sigma_max to sigma_min (as in "karras"), then `end`."""
    return polyexponential.build(
        schedule, steps, start, end, rho=1.0, sigma_min=sigma_min, sigma_max=sigma_max
    )


@register("polyexponential")
def polyexponential(
    schedule: Schedule,
    steps: int,
    start: float,
    end: float,
    *,
    rho: float = 1.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Times:
    """log(sigma / alpha) from sigma_max to sigma_min (as in "karras") by u^rho, then `end`.

    u falls evenly from 1 to 0. k-diffusion (Crowson 2022).
    """
    power = positive("rho", rho)

    def ramp(high: float, low: float, count: int) -> Times:
        u = np.linspace(1.0, 0.0, count) ** power
        return np.asarray(np.exp(u * math.log(high / low) + math.log(low)))

    return on_ratio(ramp, schedule, steps, start, end, sigma_min, sigma_max)


@register("kl_optimal")
def kl_optimal(
    schedule: Schedule,
    steps: int,
    start: float,
    end: float,
    *,
    sigma_data: float = 1.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Times:
    """arctan(r / sigma_data) evenly spaced on r = sigma / alpha, bounds as in "karras", then `end`.

    Of all grids the one with which Euler's method (DDIM) is closest to data of a normal
    distribution, in the Kullback-Leibler divergence; sigma_data: its standard deviation. With 1
    it is even in the angle of `Trig`. Sabour et al. 2024 (arXiv 2404.14507, theorem 3.1).
    """
    scale = positive("sigma_data", sigma_data)

    def ramp(high: float, low: float, count: int) -> Times:
        angle = np.linspace(math.atan(high / scale), math.atan(low / scale), count)
        return np.asarray(scale * np.tan(angle))

    return on_ratio(ramp, schedule, steps, start, end, sigma_min, sigma_max)


def on_ratio(
    ramp: Callable[[float, float, int], Times],
    schedule: Schedule,
    steps: int,
    start: float,
    end: float,
    sigma_min: float | None,
    sigma_max: float | None,
    limit: float = 80.0,
) -> Times:
    """Times at which sigma / alpha takes the values ramp(high, low, count)."""
    high = schedule.ratio(start)
    exact_start = sigma_max is None and math.isfinite(high)
    if not exact_start:
        high = limit if sigma_max is None else positive("sigma_max", sigma_max)
    straight = end > 0 and sigma_min is None
    low = schedule.ratio(end if straight else schedule.t_min)
    if sigma_min is not None:
        low = positive("sigma_min", sigma_min)
    count = steps + straight
    if count > 1 and not low < high:
        raise ValueError(
            f"sigma / alpha would not fall: from {high:.6g} (start = {start:.6g}, or sigma_max) to "
            f"{low:.6g} (t_min = {schedule.t_min:.6g}, end, or sigma_min); start later in noise, "
            "or give a smaller sigma_min"
        )
    inner = schedule.time_at_ratio(np.clip(ramp(high, min(low, high), count), None, high))
    result = np.append(inner[:steps], end)
    if exact_start:
        result[0] = start
    return result
