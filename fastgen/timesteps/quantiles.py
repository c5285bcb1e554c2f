"""The grid by quantiles of a beta distribution, and that distribution's quantile function."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastgen.schedules import DiscreteVP, Schedule
from fastgen.timesteps.checks import positive
from fastgen.timesteps.curves import lowest
from fastgen.timesteps.ratios import on_ratio
from fastgen.timesteps.registry import Times, register

_SMALLEST_LOG = -744.0  # exp of it is the smallest positive double


@register("beta")
def beta(
    schedule: Schedule,
    steps: int,
    start: float,
    end: float,
    *,
    alpha: float = 0.6,
    beta: float = 0.6,
    on: str = "time",
    rounded: bool = False,
) -> Times:
    """u_i = t_min + (start - t_min) Q(1 - i / steps) before `schedule.warp`, then `end`.

    Q: quantile function of the Beta(alpha, beta) distribution; below 1 both make steps short at
    both ends. With end > 0, `end` takes the place of t_min.

    rounded: to the indices of a DiscreteVP schedule, as in ComfyUI. (It drops repeated indices and
    so makes fewer steps; here they are refused.) on="ratio": sigma / alpha = r(t_min) +
    (r(start) - r(t_min)) Q(1 - i / (steps - 1)) instead, then `end`: diffusers' `use_beta_sigmas`.

    Lee et al. 2024 (arXiv 2407.12173); alpha = beta = 0.6 is their choice.
    """
    a, b = positive("alpha", alpha), positive("beta", beta)
    if on not in ("time", "ratio"):
        raise ValueError(f"on = {on!r} is unknown; give 'time' or 'ratio'")
    if rounded and not isinstance(schedule, DiscreteVP):
        raise ValueError(f"rounded = True needs a DiscreteVP schedule, not {schedule!r}")
    if on == "ratio":

        def ramp(high: float, low: float, count: int) -> Times:
            return low + (high - low) * quantile(np.linspace(1.0, 0.0, count), a, b)

        result = on_ratio(ramp, schedule, steps, start, end, None, None)
    else:
        low, high = lowest(schedule, start, end), schedule.unwarp(start)
        u = low + (high - low) * quantile(1 - np.arange(steps) / steps, a, b)
        result = np.append(schedule.warp(u), end)
        result[0] = start
    if rounded and isinstance(schedule, DiscreteVP):
        # First to 9 digits, so that halves are ties whatever the last bits say.
        index = np.round(np.round(schedule.index_of_time(result[:-1]), 9))
        if (index[1:] == index[:-1]).any():
            raise ValueError(
                f"rounded = True repeats index {index[1:][index[1:] == index[:-1]][0]:.0f} at "
                f"steps = {steps}; give fewer steps, or rounded=False"
            )
        result = np.append(schedule.time_of_index(index), end)
    return result


def quantile(p: ArrayLike, a: float, b: float) -> NDArray[np.float64]:
    """The x at which the regularised incomplete beta function I_x(a, b) = p.

    p: in [0, 1], any shape; a, b > 0. Newton's method on log I_x as a function of log x, kept
    within a bracket; I_x by its continued fraction (DLMF 8.17.22), in the half x < (a + 1) /
    (a + b + 2) where that converges fast, the other half by I_x(a, b) = 1 - I_{1-x}(b, a).
    Relative error about 1e-14 in x below the middle and in 1 - x above, for a, b up to 100.
    """
    given = np.asarray(p, dtype=np.float64)
    values = given.ravel()
    middle = (a + 1) / (a + b + 2)
    share = math.exp(float(_log_integral(np.array([math.log(middle)]), a, b)[0]))
    result = np.where(values > 0, 1.0, 0.0)
    below = (values > 0) & (values <= share)
    above = (values < 1) & (values > share)
    result[below] = _lower_quantile(values[below], a, b, middle)
    result[above] = 1 - _lower_quantile(1 - values[above], b, a, 1 - middle)
    return result.reshape(given.shape)


def _lower_quantile(
    p: NDArray[np.float64], a: float, b: float, middle: float
) -> NDArray[np.float64]:
    log_p = np.log(p)
    low, high = np.full(p.shape, _SMALLEST_LOG), np.full(p.shape, math.log(middle))
    # I_x is close to x^a / (a B(a, b)) where x is small.
    y = np.clip((log_p + math.log(a) + _log_beta(a, b)) / a, low, high)
    for _ in range(200):
        x, log_i = np.exp(y), _log_integral(y, a, b)
        error = log_i - log_p
        low, high = np.where(error < 0, y, low), np.where(error > 0, y, high)
        slope = np.exp(a * y + (b - 1) * np.log1p(-x) - _log_beta(a, b) - log_i)
        new = y - error / slope
        inside = (new >= low) & (new <= high)
        new = np.where(inside, new, (low + high) / 2)
        # After a step of Newton's its square is what is left, after a halving the step itself.
        enough = np.where(inside, 1e-9, 2e-16 * np.maximum(1.0, np.abs(y)))
        done = (np.abs(new - y) <= enough).all()
        y = new
        if done:
            break
    return np.exp(y)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_integral(y: NDArray[np.float64], a: float, b: float) -> NDArray[np.float64]:
    """log I_x(a, b) at x = exp(y): log of x^a (1 - x)^b / (a B(a, b)) times the fraction."""
    x = np.exp(y)
    tiny = 1e-300  # Lentz's method: what stands for a zero denominator
    c, d = np.ones_like(x), 1 - (a + b) * x / (a + 1)
    d = 1 / np.where(np.abs(d) < tiny, tiny, d)
    fraction = d
    for m in range(1, 1000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 + term * d, 1 + term / c
            d = 1 / np.where(np.abs(d) < tiny, tiny, d)
            c = np.where(np.abs(c) < tiny, tiny, c)
            fraction = fraction * (c * d)
        if (np.abs(c * d - 1) < 1e-15).all():
            break
    front = a * y + b * np.log1p(-x) - math.log(a) - _log_beta(a, b)
    return np.asarray(front + np.log(fraction))
