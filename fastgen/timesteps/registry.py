"""The table of time grids, and `times`, which asks one of them and checks what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastgen.common.checks import check_number
from fastgen.common.errors import nearest
from fastgen.common.options import Configurable, check_given_once, keywords, takes_any
from fastgen.common.tensors import is_tensor
from fastgen.schedules import Schedule
from fastgen.timesteps.checks import falling, positive_integer

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
Times: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Grid(Configurable[P]):
    """One row of the table of time grids: ``fastgen.timesteps.karras``, or ``karras(rho=5)``.

    It is taken wherever a grid's name is. Its options are arguments of a call, by name; an
    unknown one, and one that was given before, is a TypeError. Rows are values: equal if they are
    the same grid with the same options given, and they can be copied, pickled and hashed.

    name, build, given, options: see `fastgen.common.options.Configurable`; build is called as
    build(schedule, steps, start, end, **options) and gives the times (see `times`).
    """

    build: Callable[Concatenate[Schedule, int, float, float, P], Times]

    def __call__(self, *arguments: P.args, **options: P.kwargs) -> Grid[P]:
        """The grid with these options, which are given by name."""
        return self.with_options(arguments, options)

    def __reduce__(self) -> Any:
        if _grids.get(self.name) == self.bare:  # functions of the table go by their names
            return _restored, (self.name, dict(self.given))
        return super().__reduce__()


_grids: dict[str, Grid[...]] = {}


def _restored(name: str, given: dict[str, Any]) -> Grid[...]:
    return get(name)(**given)


def register(
    name: str,
) -> Callable[[Callable[Concatenate[Schedule, int, float, float, P], Times]], Grid[P]]:
    """Decorator: makes a grid known to `times` as `name`.

    The function is called as grid(schedule, steps, start, end, **options) and gives steps + 1
    decreasing times of which the last is `end`; its keyword-only arguments are its options. The
    decorated name is then the table's `Grid`; the function itself is its ``build``.
    """

    def add(build: Callable[Concatenate[Schedule, int, float, float, P], Times]) -> Grid[P]:
        if name in _grids and _grids[name].build is not build:
            raise ValueError(f"a time grid named {name!r} is registered already; choose another")
        made: Grid[P] = Grid(name, build)
        _grids[name] = made
        return made

    return add


def names(*, option: str | None = None) -> tuple[str, ...]:
    """Names of all time grids, sorted; or of those that have an option, "rho" say."""
    found = sorted(_grids)
    return tuple(n for n in found if option is None or option in keywords(_grids[n].build))


def get(grid: str) -> Grid[...]:
    """The grid of that name.

    Raises:
        ValueError: for an unknown grid, naming the nearest one.
    """
    if not isinstance(grid, str) or grid not in _grids:
        raise ValueError(f"unknown time grid {grid!r}; {nearest(str(grid), _grids)}")
    return _grids[grid]


def options(grid: str | Grid[...]) -> tuple[str, ...]:
    """Names of the options of a grid; raises as `get` does."""
    return tuple(keywords((grid if isinstance(grid, Grid) else get(grid)).build))


def times(
    grid: str | Grid[...] | Sequence[float] | Times | torch.Tensor,
    schedule: Schedule,
    steps: int | None = None,
    *,
    start: float = 1.0,
    end: float = 0.0,
    **options: Any,
) -> Times:
    """Strictly decreasing times of shape [steps + 1] in [0, 1], the last being `end`.

    Args:
        grid: one of `fastgen.timesteps`, with options or without, or its name; or decreasing
            times, which are checked and returned.
        schedule: the process.
        steps: their number. With given times it is None, or the number of times less one.
        start: first time. Some grids cannot begin there and begin later: "leading", those on a
            ratio that is infinite at `start`, and tables that begin at less noise.
        end: last time.
        **options: of the grid; ``help(fastgen.timesteps.karras)`` shows those of one.

    Raises:
        ValueError, TypeError: naming the argument, its value and a remedy.
    """
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule={schedule!r}: expected a fastgen.schedules.Schedule")
    for name, value in (("start", start), ("end", end)):
        if not 0 <= check_number(name, value) <= 1:
            raise ValueError(f"{name} = {value!r} is out of range; give a time within [0, 1]")
    if not isinstance(grid, (str, Grid)):
        return _given(grid, steps, start, end, options)
    row = grid if isinstance(grid, Grid) else get(grid)
    check_given_once(row, options)
    if not end < start:
        raise ValueError(f"end = {end!r} is not below start = {start!r}; times run from 1 to 0")
    known = keywords(row.build)
    for name in options:
        if name not in known and not takes_any(row.build):
            meant = nearest(name, [*known, "start", "end", "steps"])
            raise TypeError(f"time grid {row.name!r} has no option {name!r}; {meant}")
    if steps is None:
        raise ValueError(f"steps = None for time grid {row.name!r}; give steps, or explicit times")
    count = positive_integer("steps", steps)
    own = {**row.given, **options}
    result = np.asarray(row.build(schedule, count, float(start), float(end), **own), np.float64)
    if result.shape != (count + 1,):
        raise ValueError(
            f"time grid {row.name!r} gave shape {result.shape} for steps = {count}; it must give "
            f"({count + 1},)"
        )
    falling(result, f"time grid {row.name!r} with steps = {count}")
    if result[-1] != end:
        raise ValueError(
            f"time grid {row.name!r} ends at {float(result[-1])!r} instead of end = {end!r}"
        )
    return result


def _given(
    grid: Any, steps: int | None, start: float, end: float, options: dict[str, Any]
) -> Times:
    if options:
        raise TypeError(f"explicit times take no options; remove {', '.join(sorted(options))}")
    if is_tensor(grid):
        grid = grid.detach().cpu().numpy()
    try:
        if np.iscomplexobj(grid):
            raise TypeError
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
