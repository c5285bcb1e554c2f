"""The table of solvers, and `plan`: what one of them does on a schedule and a time grid."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

import fastgen.timesteps as grids
from fastgen.common.checks import check_choice, check_number, check_pair
from fastgen.common.display import displayed
from fastgen.common.errors import nearest
from fastgen.common.memo import Memo
from fastgen.model.parametrisation import QUANTITIES
from fastgen.plans import Builder, Form, MissingLimitError, Plan
from fastgen.schedules import Schedule

SolverFunction = Callable[..., Form]


@displayed
@dataclass(frozen=True)
class Solver:
    """One row of the solver table.

    order: measured convergence order (weak order for stochastic solvers), None where the theory
    gives none. evaluations: network evaluations per step. two_times: whether it needs a network
    of average velocities. build: the function that records it.
    """

    name: str
    build: SolverFunction
    order: int | None
    evaluations: str
    stochastic: bool
    source: str
    two_times: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The solver's own options and their defaults."""
        return _keywords(self.build)


_SOLVERS: dict[str, Solver] = {}


def register(
    name: str,
    *,
    order: int | None,
    evaluations: str = "1",
    stochastic: bool = False,
    source: str,
    two_times: bool = False,
) -> Callable[[SolverFunction], SolverFunction]:
    """Add a solver: a function of (p: Builder, times: array, **options) that returns the result.

    Raises:
        ValueError: if the name is taken.
    """

    def add(build: SolverFunction) -> SolverFunction:
        if name in _SOLVERS:
            raise ValueError(f"name={name!r}: a solver of that name is registered already")
        _SOLVERS[name] = Solver(name, build, order, evaluations, stochastic, source, two_times)
        return build

    return add


def names() -> list[str]:
    """All solvers, alphabetically."""
    return sorted(_SOLVERS)


def get(name: str) -> Solver:
    """The solver of that name.

    Raises:
        ValueError: naming the nearest known one.
    """
    if not isinstance(name, str) or name not in _SOLVERS:
        raise ValueError(f"solver={name!r}: {nearest(str(name), names())}")
    return _SOLVERS[name]


@cache
def _keywords(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def known_options(
    solver: str, schedule: Schedule, timesteps: str | Sequence[float] | np.ndarray | None
) -> list[str]:
    """Every keyword that `plan` takes for this solver and time grid."""
    grid = schedule.default_grid if timesteps is None else timesteps
    of_grid = grids.options(grid) if isinstance(grid, str) else {}
    return [*get(solver).options, *of_grid, *_keywords(plan)]


def plan(
    solver: str,
    schedule: Schedule,
    steps: int | None = None,
    *,
    timesteps: str | Sequence[float] | np.ndarray | None = None,
    start: float | None = None,
    end: float = 0.0,
    reverse: bool = False,
    clip: tuple[float, float] | None = None,
    predicts: str = "velocity",
    **options: Any,
) -> Plan:
    """Run a solver symbolically: which evaluations, where, and all coefficients in float64.

    Args:
        solver: a name from `fastgen.solvers.names()`.
        schedule: the process.
        steps: number of steps of the time grid (not needed with explicit times).
        timesteps: a grid's name (`fastgen.timesteps.names()`) or the decreasing times
            themselves; the default is the schedule's ``default_grid``.
        start: first time; the default is the schedule's ``t_max``.
        end: last time; 0 is data.
        reverse: run the grid from ``end`` to ``start``, from data to noise (see `fastgen.invert`).
            Where alpha is 0 at the start, as in flows, solvers that have no step to there end with
            x = sigma eps.
        clip: bounds to which every data prediction is clipped, such as (-1, 1).
        predicts: what the network will predict, where a solver asks whether it can be evaluated
            at t = 0.
        **options: the solver's own options and the grid's.

    Raises:
        TypeError: for an unknown option, naming the nearest one.
        ValueError: for an unknown solver, grid or unusable times.

    Example:
        >>> plan = fastgen.plan("heun", fastgen.schedules.Rectified(), steps=2)
        >>> plan.nfe  # evaluations of the network
        4
        >>> fastgen.Plan.from_json(plan.to_json()).nfe
        4
    """
    entry = get(solver)
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule: expected a fastgen.schedules.Schedule, got {schedule!r}")
    known = known_options(solver, schedule, timesteps)
    for option in options:
        if option not in known:
            raise TypeError(
                f"unknown option {option!r} of {solver!r}: {nearest(option, ['steps', *known])}"
            )
    grid = schedule.default_grid if timesteps is None else timesteps
    check_choice("predicts", predicts, QUANTITIES)
    if not isinstance(reverse, (bool, np.bool_)):
        raise TypeError(f"reverse={reverse!r}: expected True or False")
    for name, value in (("start", start), ("end", end)):
        if value is not None or name == "end":
            check_number(name, value)
    low, high = (0.0, 1.0) if clip is None else check_pair("clip", clip)
    if not low < high:
        raise ValueError(f"clip={clip!r}: expected (low, high) with low < high")
    make = partial(
        _made, entry, schedule, grid, steps, start, end, reverse, clip, predicts, options
    )
    values = steps, start, end, reverse, predicts, *(clip or ()), *options, *options.values()
    if (
        schedule.constant
        and isinstance(grid, str)
        and all(map(_is_own, (entry.build, grids.get(grid))))
        and all(isinstance(v, str | int | float | None) for v in values)
    ):
        return kept_plans((entry, schedule, repr((schedule, grid, clip, values))), make)
    return make()


# Plans that depend on their arguments alone: a loop of `fastgen.sample` asks for the same again.
kept_plans = Memo[Plan](64)


def _is_own(function: Callable[..., Any]) -> bool:
    """Whether it is this library's: a user's may give something else the next time."""
    return (function.__module__ or "").startswith("fastgen.")


def _explained(
    error: Exception,
    entry: Solver,
    schedule: Schedule,
    times: list[float],
    reverse: bool,
    own: dict[str, Any],
) -> str | None:
    """What a solver's failure means, or None where it says so itself."""
    if reverse and entry.stochastic:
        return (
            f"reverse=True: {entry.name!r} adds noise in steps from noise to data, and steps from "
            f"data to noise have none to add ({error}); take a solver that draws none, such as "
            "ddim, heun or dpmpp_2m"
        )
    limit = isinstance(error, ValueError) and "a limit is missing" in str(error)
    bare = isinstance(error, ArithmeticError) or str(error).startswith("math ") or limit
    wrong = [f"{k}={v!r}" for k, v in own.items() if not _is_sensible(v)]
    if wrong and (bare or _is_own(entry.build)):
        return f"{', '.join(wrong)}: {entry.name!r} cannot be planned with it ({error})"
    if not bare:
        return None
    ends = [f"end={schedule.t_min:g}"] * (0.0 in times) + ["start=0.99"] * (1.0 in times)
    remedy = f"pass {' or '.join(ends)}, or take" if ends else "take"
    return (
        f"{'reverse=True: ' if reverse else ''}{entry.name!r} cannot be planned from "
        f"t={times[0]:.6g} to t={times[-1]:.6g} on {schedule!r} ({error}); {remedy} another solver"
    )


def _is_sensible(value: Any) -> bool:
    """Whether it is a finite number, a name, or a collection of such."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_sensible, value))
    return isinstance(value, (str, bool)) or (
        isinstance(value, numbers.Real) and math.isfinite(value)
    )


def _made(
    entry: Solver,
    schedule: Schedule,
    grid: str | Sequence[float] | np.ndarray,
    steps: int | None,
    start: float | None,
    end: float,
    reverse: bool,
    clip: tuple[float, float] | None,
    predicts: str,
    options: dict[str, Any],
) -> Plan:
    times = grids.times(
        grid,
        schedule,
        steps,
        start=start if start is not None else schedule.t_max if isinstance(grid, str) else 1.0,
        end=end,
        **{k: v for k, v in options.items() if k not in entry.options},
    )
    times = times[::-1].copy() if reverse else times
    own = {k: v for k, v in options.items() if k in entry.options}
    planned = schedule.while_planning()
    builder = Builder(planned, predicts)
    try:
        with np.errstate(divide="ignore", invalid="ignore"):  # a missing limit is said below
            try:
                result = builder.let(entry.build(builder, times.tolist(), **own))
            except (MissingLimitError, ZeroDivisionError):
                if not reverse or schedule.alpha(float(times[-1])) > 0:
                    raise
                builder = Builder(planned, predicts)
                result = builder.let(_to_noise(builder, entry.build, times.tolist(), own))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        message = _explained(error, entry, schedule, times.tolist(), reverse, own)
        if message is None:
            raise
        raise ValueError(message) from error
    return Plan(
        solver=entry.name,
        options=own,
        schedule=schedule,
        times=times,
        instructions=tuple(builder.instructions),
        result=next(iter(result.terms)),  # type: ignore[arg-type]
        clip=clip,
    )


def _to_noise(p: Builder, build: SolverFunction, times: list[float], own: dict[str, Any]) -> Form:
    """The solver up to the last time but one, then x = sigma eps, as alpha is 0 at the last.

    For solvers of the reverse process, whose steps there are infinitely long in the log of the
    signal-to-noise ratio. One step of first order leaves a method of second order what it is.
    """
    x = build(p, times[:-1], **own)
    return p.state(p.sigma(times[-1]) * p.epsilon(x, times[-2]), times[-1])
