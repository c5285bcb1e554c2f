"""Grids by a curve in time itself, applied before `schedule.warp`, where a flow's shift acts.

The shift belongs to the schedule and acts here alone, once: grids do not shift times again.
"""

from __future__ import annotations

import math

import numpy as np

from fastgen.schedules import Schedule
from fastgen.timesteps.checks import positive, positive_integer
from fastgen.timesteps.registry import Times, register


@register("uniform")
def uniform(schedule: Schedule, steps: int, start: float, end: float) -> Times:
    """Evenly spaced before `schedule.warp`, which is where a flow model's shift acts.

    On `Rectified(shift)` this is the spacing of the pipelines of Stable Diffusion 3 and Flux,
    with `fastgen.schedules.dynamic_shift` for a shift that depends on the resolution.
    """
    u = np.linspace(schedule.unwarp(start), schedule.unwarp(end), steps + 1)
    return _warped(schedule, u, start, end)


@register("quadratic")
def quadratic(schedule: Schedule, steps: int, start: float, end: float) -> Times:
    """sqrt(t) evenly spaced before `schedule.warp` (Song et al. 2020, arXiv 2010.02502)."""
    u, v = math.sqrt(schedule.unwarp(start)), math.sqrt(schedule.unwarp(end))
    return _warped(schedule, np.linspace(u, v, steps + 1) ** 2, start, end)


@register("sgm_uniform")
def sgm_uniform(schedule: Schedule, steps: int, start: float, end: float) -> Times:
    """u_i = start + (t_min - start) i / steps before `schedule.warp`, the last replaced by `end`.

    The last step is thus longer than the others by t_min; with end > 0, as "uniform". On a
    DiscreteVP schedule the indices N - 1 ... 0 in steps + 1 points (not rounded) without the
    last: ComfyUI's "sgm_uniform", after Stability AI's generative-models, which rounds down.
    On a shifted flow ComfyUI shifts its smallest time twice, here it is shifted once.
    """
    u = np.linspace(schedule.unwarp(start), lowest(schedule, start, end), steps + 1)
    return _warped(schedule, u, start, end)


@register("normal")
def normal(schedule: Schedule, steps: int, start: float, end: float) -> Times:
    """u_i = start + (t_min - start) i / (steps - 1) before `schedule.warp`, then `end`.

    With end > 0, as "uniform". On a DiscreteVP schedule it is "linspace" not rounded: ComfyUI's
    "normal", the default of k-diffusion's discrete wrappers (Crowson 2022).
    """
    low = lowest(schedule, start, end)
    u = np.linspace(schedule.unwarp(start), low, steps + (end > 0))
    return _warped(schedule, np.append(u[:steps], 0.0), start, end)


@register("linear_quadratic")
def linear_quadratic(
    schedule: Schedule,
    steps: int,
    start: float,
    end: float,
    *,
    threshold_noise: float = 0.025,
    linear_steps: int | None = None,
) -> Times:
    """u_i = start + (end - start) f(i) before `schedule.warp`: small even steps, then longer ones.

    f(i) = c i / L for i <= L, and beyond f(i) = c i / L + (L - c n) (i - L)^2 / (L (n - L)^2),
    which continues value and slope and ends at f(n) = 1. n: steps; c: threshold_noise, the
    share of the way that the L = linear_steps (n // 2 by default) first steps cover.
    Genmo 2024 (Mochi 1 preview), where the shift is 1; ComfyUI's "linear_quadratic".
    """
    if steps == 1:
        return np.array([start, end])
    first = steps // 2 if linear_steps is None else positive_integer("linear_steps", linear_steps)
    share = positive("threshold_noise", threshold_noise)
    if first >= steps:
        raise ValueError(
            f"linear_steps = {first} leaves no quadratic step of steps = {steps}; give less"
        )
    rest, excess = steps - first, (first - share * steps) / first
    if share * rest / first + 2 * excess <= 0:  # the slope at the last point
        raise ValueError(
            f"threshold_noise = {share} is too much for linear_steps = {first} of steps = "
            f"{steps}: times would turn back; give less than {2 * first / (steps + first):.6g}"
        )
    i = np.arange(steps + 1.0)
    f = share * i / first + excess * (np.maximum(i - first, 0) / rest) ** 2
    high, low = schedule.unwarp(start), schedule.unwarp(end)
    return _warped(schedule, np.clip(high + (low - high) * f, 0, 1), start, end)


def lowest(schedule: Schedule, start: float, end: float) -> float:
    """Where the curve comes down to before `schedule.warp`: t_min for data, or a later `end`."""
    low, high = (schedule.unwarp(end) if end > 0 else schedule.t_min), schedule.unwarp(start)
    if not low < high:
        raise ValueError(
            f"start = {start:.6g} is not above t_min = {schedule.t_min:.6g}, the last time before "
            "data; start later in noise, or use 'uniform'"
        )
    return low


def _warped(schedule: Schedule, u: Times, start: float, end: float) -> Times:
    result = schedule.warp(u)
    result[0], result[-1] = start, end
    return result
