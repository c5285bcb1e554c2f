"""The table of time grids, and `times`, which asks one of them and checks what it gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastgen.common.checks import check_number
from fastgen.common.errors import nearest
from fastgen.common.tensors import is_tensor
from fastgen.schedules import Schedule
from fastgen.timesteps.checks import falling, positive_integer

if TYPE_CHECKING:
    import torch

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


def get(grid: str) -> Grid:
    """The function of a grid.

    Raises:
        ValueError: for an unknown grid, naming the nearest one.
    """
    if grid not in _grids:
        raise ValueError(f"unknown time grid {grid!r}; {nearest(grid, _grids)}")
    return _grids[grid]


def options(grid: str) -> tuple[str, ...]:
    """Names of the options of a grid; raises as `get` does."""
    return tuple(_options(get(grid)) or ())


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

    Args:
        grid: a name of `names()`, or decreasing times, which are checked and returned.
        schedule: the process.
        steps: their number. With given times it is None, or the number of times less one.
        start: first time. Some grids cannot begin there and begin later: "leading", those on a
            ratio that is infinite at `start`, and tables that begin at less noise.
        end: last time.
        **options: of the grid; see the functions of the modules `curves`, `ratios`, `discrete`,
            `beta` and `tables`.

    Raises:
        ValueError, TypeError: naming the argument, its value and a remedy.
    """
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule={schedule!r}: expected a fastgen.schedules.Schedule")
    for name, value in (("start", start), ("end", end)):
        if not 0 <= check_number(name, value) <= 1:
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
    if steps is None:
        raise ValueError(f"steps = None for time grid {grid!r}; give steps, or explicit times")
    count = positive_integer("steps", steps)
    result = np.asarray(function(schedule, count, float(start), float(end), **options), np.float64)
    if result.shape != (count + 1,):
        raise ValueError(
            f"time grid {grid!r} gave shape {result.shape} for steps = {count}; it must give "
            f"({count + 1},)"
        )
    falling(result, f"time grid {grid!r} with steps = {count}")
    if result[-1] != end:
        raise ValueError(
            f"time grid {grid!r} ends at {float(result[-1])!r} instead of end = {end!r}"
        )
    return result


@cache
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
    if is_tensor(grid):
        grid = grid.detach().cpu().numpy()
    try:
        result = np.array(grid, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"timesteps={grid!r}: expected a grid's name ({', '.join(names())}) or falling times"
        ) from None
    if result.ndim != 1 or result.size < 2:
        raise ValueError(f"explicit times have shape {result.shape}; give at least two times")
    if steps is not None and positive_integer("steps", steps) != result.size - 1:
        raise ValueError(
            f"steps = {steps!r}, but {result.size} explicit times make {result.size - 1} steps; "
            "leave steps out"
        )
    falling(result, "explicit times")
    for name, value, default, own in (
        ("start", start, 1.0, float(result[0])),
        ("end", end, 0.0, float(result[-1])),
    ):
        if value not in (default, own):
            raise ValueError(f"{name} = {value!r}, but explicit times have {own!r}; leave it out")
    return result
