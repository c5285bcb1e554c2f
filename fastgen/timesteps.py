"""Time grids: the decreasing times, from noise (1) to data (0), between which solvers step."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fastgen.errors import nearest
from fastgen.schedules import DiscreteVP, Schedule

Times = NDArray[np.float64]
Grid = Callable[..., Times]
G = TypeVar("G", bound=Grid)

_grids: dict[str, Grid] = {}


def register(name: str) -> Callable[[G], G]:
    """Decorator: makes a grid known to `times` as `name`.

    The function is called as grid(schedule, steps, start, end, **options) and gives steps + 1
    decreasing times of which the last is `end`; its keyword-only arguments are its options.
    """

    def add(grid: G) -> G:
        if _grids.setdefault(name, grid) is not grid:
            raise ValueError(f"a time grid named {name!r} is registered already; choose another")
        return grid

    return add


def names() -> tuple[str, ...]:
    """Names of all time grids, sorted."""
    return tuple(sorted(_grids))


def options(grid: str) -> tuple[str, ...]:
    """Names of the options of a grid.

    Raises ValueError for an unknown grid, naming the nearest one.
    """
    if grid not in _grids:
        raise ValueError(f"unknown time grid {grid!r}; {nearest(grid, _grids)}")
    return tuple(_options(_grids[grid]) or ())


def times(
    grid: str | Sequence[float] | Times | torch.Tensor,
    schedule: Schedule,
    steps: int | None = None,
    *,
    start: float = 1.0,
    end: float = 0.0,
    **options: Any,
) -> Times:
    """Strictly decreasing times of shape [steps + 1] in [0, 1], the last being `end`.

    grid: a name of `names()`, or decreasing times, which are checked and returned (steps is then
    None or their number less one). start: first time; a grid that cannot begin there ("leading";
    those uniform in a ratio that is infinite at `start`) has a start of its own. options: those
    of the grid, see the functions of this module.

    Raises ValueError or TypeError naming the argument, its value and a remedy.
    """
    for name, value in (("start", start), ("end", end)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} = {value!r} is out of range; give a time within [0, 1]")
    if not isinstance(grid, str):
        return _given(grid, steps, start, end, options)
    if grid not in _grids:
        raise ValueError(f"unknown time grid {grid!r}; {nearest(grid, _grids)}")
    if not end < start:
        raise ValueError(f"end = {end!r} is not below start = {start!r}; times run from 1 to 0")
    function = _grids[grid]
    known = _options(function)
    for name in options:
        if known is not None and name not in known:
            meant = nearest(name, [*known, "start", "end", "steps"])
            raise TypeError(f"time grid {grid!r} has no option {name!r}; {meant}")
    count = _positive_integer(steps)
    result = np.asarray(function(schedule, count, float(start), float(end), **options), np.float64)
    if result.shape != (count + 1,):
        raise ValueError(
            f"time grid {grid!r} gave shape {result.shape} for steps = {count}; it must give "
            f"({count + 1},)"
        )
    _check(result, f"time grid {grid!r} with steps = {count}")
    if result[-1] != end:
        raise ValueError(
            f"time grid {grid!r} ends at {float(result[-1])!r} instead of end = {end!r}"
        )
    return result


@register("uniform")
def uniform(schedule: Schedule, steps: int, start: float, end: float) -> Times:
    """Evenly spaced before `schedule.warp`, which is where a flow model's shift acts."""
    u = np.linspace(schedule.unwarp(start), schedule.unwarp(end), steps + 1)
    return _with_ends(schedule.warp(u), start, end)


@register("quadratic")
def quadratic(schedule: Schedule, steps: int, start: float, end: float) -> Times:
    """sqrt(t) evenly spaced before `schedule.warp` (Song et al. 2020, arXiv 2010.02502)."""
    u, v = math.sqrt(schedule.unwarp(start)), math.sqrt(schedule.unwarp(end))
    return _with_ends(schedule.warp(np.linspace(u, v, steps + 1) ** 2), start, end)


@register("log_snr")
def log_snr(
    schedule: Schedule, steps: int, start: float, end: float, *, ratio_max: float = 80.0
) -> Times:
    """log(alpha / sigma) evenly spaced from `start` to t_min, then `end`.

    With end > 0, evenly spaced from `start` to `end`. Where alpha(start) = 0 the first time is
    the one at which sigma / alpha = ratio_max, as nothing is evenly spaced from infinity.
    Lu et al. 2022 (arXiv 2206.00927).
    """

    def ramp(high: float, low: float, count: int) -> Times:
        return np.exp(np.linspace(math.log(high), math.log(low), count))

    limit = _positive("ratio_max", ratio_max)
    return _on_ratio(ramp, schedule, steps, start, end, None, None, limit)


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
    power = _positive("rho", rho)

    def ramp(high: float, low: float, count: int) -> Times:
        first, last = high ** (1 / power), low ** (1 / power)
        return np.asarray(np.linspace(first, last, count) ** power)

    return _on_ratio(ramp, schedule, steps, start, end, sigma_min, sigma_max)


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
    return polyexponential(
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
    power = _positive("rho", rho)

    def ramp(high: float, low: float, count: int) -> Times:
        u = np.linspace(1.0, 0.0, count) ** power
        return np.asarray(np.exp(u * math.log(high / low) + math.log(low)))

    return _on_ratio(ramp, schedule, steps, start, end, sigma_min, sigma_max)


@register("leading")
def leading(
    schedule: Schedule, steps: int, start: float, end: float, *, steps_offset: int = 0
) -> Times:
    """Indices 0, k, 2k, ... + steps_offset, k = N // steps, then `end`; begins below `start`.

    The three discrete grids are compared by Lin et al. 2023 (arXiv 2305.08891, table 2). N is
    the number of indices up to `start`.
    """
    count = _indices("leading", schedule, steps, start)
    offset = operator.index(steps_offset)
    index = np.arange(steps)[::-1] * (count // steps) + offset
    if offset < 0 or index[0] >= count:
        raise ValueError(
            f"steps_offset = {offset} with steps = {steps} leads to index {index[0]}; the largest "
            f"offset here is {count - 1 - (steps - 1) * (count // steps)}, the smallest 0"
        )
    return _at_indices(schedule, index, end)


@register("linspace")
def linspace(
    schedule: Schedule, steps: int, start: float, end: float, *, rounded: bool = True
) -> Times:
    """Indices evenly spaced from N - 1 to 0, rounded unless told not to, then `end`.

    A single step takes the noisiest index N - 1 (diffusers takes 0). Not rounded is the spacing
    of diffusers' EulerDiscreteScheduler.
    """
    count = _indices("linspace", schedule, steps, start)
    index = np.linspace(0, count - 1, steps)[::-1] if steps > 1 else np.array([count - 1.0])
    return _at_indices(schedule, np.round(index) if rounded else index, end)


@register("trailing")
def trailing(schedule: Schedule, steps: int, start: float, end: float) -> Times:
    """Indices N - 1, N - 1 - k, ..., k = N / steps, rounded, then `end`.

    Always `steps` of them: diffusers gives one more, -1, for some numbers of steps such as 499.
    """
    count = _indices("trailing", schedule, steps, start)
    # arange's own rounding of the stride decides ties, such as 937.5 of 48 steps, as in diffusers.
    index = np.round(np.arange(count, 0, -count / steps)[:steps]) - 1
    return _at_indices(schedule, index, end)


def _on_ratio(
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
        high = limit if sigma_max is None else _positive("sigma_max", sigma_max)
    straight = end > 0 and sigma_min is None
    low = schedule.ratio(end if straight else schedule.t_min)
    if sigma_min is not None:
        low = _positive("sigma_min", sigma_min)
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


def _with_ends(result: Times, start: float, end: float) -> Times:
    result[0], result[-1] = start, end
    return result


def _indices(grid: str, schedule: Schedule, steps: int, start: float) -> int:
    """The number of a discrete schedule's indices up to time `start`, at least `steps`."""
    if not isinstance(schedule, DiscreteVP):
        raise ValueError(
            f"time grid {grid!r} needs a DiscreteVP schedule, not {schedule!r}; use 'uniform', or "
            "'karras'"
        )
    count = math.floor(schedule.index_of_time(start)) + 1
    if steps > count:
        raise ValueError(
            f"steps = {steps} would repeat indices of time grid {grid!r}: {schedule!r} has {count} "
            f"up to start = {start:.6g}; give steps <= {count}"
        )
    return count


def _at_indices(schedule: Schedule, index: NDArray[Any], end: float) -> Times:
    assert isinstance(schedule, DiscreteVP)
    return np.append(schedule.time_of_index(index.astype(np.float64)), end)


def _options(grid: Grid) -> list[str] | None:
    """Names of the keyword-only arguments of a grid; None where it takes any."""
    parameters = inspect.signature(grid).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def _given(
    grid: Any, steps: int | None, start: float, end: float, options: dict[str, Any]
) -> Times:
    if options:
        raise TypeError(f"explicit times take no options; remove {', '.join(sorted(options))}")
    if isinstance(grid, torch.Tensor):
        grid = grid.detach().cpu().numpy()
    result = np.array(grid, dtype=np.float64)
    if result.ndim != 1 or result.size < 2:
        raise ValueError(f"explicit times have shape {result.shape}; give at least two times")
    if steps is not None and _positive_integer(steps) != result.size - 1:
        raise ValueError(
            f"steps = {steps!r}, but {result.size} explicit times make {result.size - 1} steps; "
            "leave steps out"
        )
    _check(result, "explicit times")
    for name, value, default, own in (
        ("start", start, 1.0, float(result[0])),
        ("end", end, 0.0, float(result[-1])),
    ):
        if value not in (default, own):
            raise ValueError(f"{name} = {value!r}, but explicit times have {own!r}; leave it out")
    return result


def _check(result: Times, what: str) -> None:
    bad = ~((result >= 0) & (result <= 1))
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(f"{what}: times[{i}] = {float(result[i])!r} is not within [0, 1]")
    flat = result[1:] >= result[:-1]
    if flat.any():
        i = int(np.argmax(flat))
        raise ValueError(
            f"{what}: times[{i}] = {float(result[i])!r} is followed by {float(result[i + 1])!r}; "
            "times must fall strictly, from noise (1) to data (0)"
        )


def _positive_integer(steps: Any) -> int:
    try:
        count = 0 if isinstance(steps, bool) else operator.index(steps)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"steps = {steps!r} is not a positive integer; give 1 or more")
    return count


def _positive(name: str, value: Any) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} = {value!r} is out of range; give a positive number")
    return float(value)
