"""Grids on the indices of a discrete schedule.

ComfyUI's "simple" is "trailing" with another rounding, and the same where steps divides the
number of indices; its "ddim_uniform" is "leading" with steps_offset = 1.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgen.schedules import DiscreteVP, Schedule
from fastgen.timesteps.registry import Times, register


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
