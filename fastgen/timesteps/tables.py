"""Grids from tables of noise levels, sigma / alpha, that were optimised for a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from fastgen.common.errors import nearest
from fastgen.schedules import Schedule
from fastgen.timesteps.registry import Times, register

# Table 3 of Sabour et al. 2024 (arXiv 2404.14507), to the digits printed there.
_AYS: Mapping[str, tuple[float, ...]] = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "deepfloyd": (160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}

# The schedule in the README of gits-main in the authors' repository zju-pi/diff-sampler.
_GITS: Mapping[str, tuple[float, ...]] = {
    "cifar10": (80.0, 10.9836, 3.8811, 1.584, 0.5666, 0.1698, 0.002),
}

# Levels are printed to three to six digits: this close, the first one means `start` itself.
_PRINTED = 1e-3


@register("ays")
def ays(schedule: Schedule, steps: int, start: float, end: float, *, table: str = "sd15") -> Times:
    """Align Your Steps: the optimised levels of a network, log-linear between them (as "table").

    table: "sd15" (Stable Diffusion 1.5), "sdxl", "deepfloyd" (DeepFloyd-IF, stage 1) or "svd"
    (Stable Video Diffusion), each for 10 steps. Sabour et al. 2024 (arXiv 2404.14507).
    """
    return _on_levels(_AYS[_known(table, _AYS)], schedule, steps, start, end)


@register("gits")
def gits(
    schedule: Schedule, steps: int, start: float, end: float, *, table: str = "cifar10"
) -> Times:
    """Geometry-inspired levels of a network, log-linear between them (as "table").

    table: "cifar10" (EDM's network, 6 steps). The authors stop at the last level, 0.002: give
    end=schedule.t_min of `EDM()` for that. Chen et al. 2024 (arXiv 2405.11326).
    """
    return _on_levels(_GITS[_known(table, _GITS)], schedule, steps, start, end)


@register("table")
def table(
    schedule: Schedule,
    steps: int,
    start: float,
    end: float,
    *,
    sigmas: Sequence[float] | None = None,
) -> Times:
    """Given falling noise levels sigma / alpha; their logarithms are interpolated linearly.

    sigmas: the levels, at least two, all positive. The curve through them is cut at r(start) and
    r(end) where it goes beyond, divided evenly into `steps` parts, and its last point replaced
    by `end`. As many steps as levels less one give the levels themselves but the last. Where the
    first level is below r(start) the grid begins there, below `start`.
    """
    try:
        levels = np.array([] if sigmas is None else sigmas, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"sigmas={sigmas!r}: expected falling noise levels") from None
    if levels.ndim != 1 or levels.size < 2:
        raise ValueError(f"sigmas has shape {levels.shape}; give at least two noise levels")
    good = (levels > 0) & (levels < math.inf)
    good[1:] &= levels[1:] < levels[:-1]
    if not good.all():
        i = int(np.argmin(good))
        raise ValueError(
            f"sigmas[{i}] = {float(levels[i])!r} is out of order; give positive levels that fall"
        )
    return _on_levels(levels.tolist(), schedule, steps, start, end)


def _known(name: str, tables: Mapping[str, tuple[float, ...]]) -> str:
    if not isinstance(name, str) or name not in tables:
        raise ValueError(f"unknown table {name!r}; {nearest(str(name), tables)}")
    return name


def _on_levels(
    levels: Sequence[float], schedule: Schedule, steps: int, start: float, end: float
) -> Times:
    high, low = schedule.ratio(start), schedule.ratio(end)
    logs, position = np.log(levels)[::-1], np.arange(len(levels))[::-1]
    if not low < levels[0] or not levels[-1] < high:
        raise ValueError(
            f"the levels from {levels[0]:.6g} to {levels[-1]:.6g} lie outside sigma / alpha from "
            f"{high:.6g} (start = {start:.6g}) to {low:.6g} (end = {end:.6g}); take another table "
            "or schedule"
        )
    exact_start = levels[0] > high * (1 - _PRINTED)
    beyond = levels[0] > high * (1 + _PRINTED)
    first = float(np.interp(math.log(high), logs, position)) if beyond else 0.0
    inside = low > levels[-1]
    last = float(np.interp(math.log(low), logs, position)) if inside else len(levels) - 1.0
    at = np.linspace(first, last, steps + 1)[:steps]
    ratio = np.exp(np.interp(at, position[::-1], logs[::-1]))
    result = np.append(schedule.time_at_ratio(np.minimum(ratio, high)), end)
    if exact_start:
        result[0] = start
    return result
