"""The table of solvers, and `plan`: what one of them does on a schedule and a time grid."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeAlias

import numpy as np

import fastgen.timesteps as grids
from fastgen.common.checks import check_choice, check_number, check_pair
from fastgen.common.collecting import uncollected
from fastgen.common.errors import nearest
from fastgen.common.memo import Memo
from fastgen.common.options import Configurable, check_given_once, keywords
from fastgen.model.parametrisation import QUANTITIES
from fastgen.plans import Builder, Form, MissingLimitError, Plan
from fastgen.schedules import Schedule
from fastgen.solvers.auto import AUTO, chosen
from fastgen.solvers.reversible import coupling_of, reversible_steps
from fastgen.timesteps import Grid

P = ParamSpec("P")
SolverFunction: TypeAlias = Callable[..., Form]
Timesteps: TypeAlias = str | Grid[...] | Sequence[float] | np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Solver(Configurable[P]):
    """One row of the solver table: ``fastgen.solvers.ddim``, or with options ``ddim(eta=0.5)``.

    It is taken wherever a solver's name is. Its options are arguments of a call, by name; an
    unknown one, and one that was given before, is a TypeError. Rows are values: equal if they are
    the same solver with the same options given, and they can be copied, pickled and hashed.

    name, build, given, options: see `fastgen.common.options.Configurable`; build records the
    solver and is called as build(p: Builder, times, **options). order: measured convergence order
    (weak order for stochastic solvers), None where the theory gives none. evaluations: network
    evaluations per step. stochastic: whether it draws noise unless an option says otherwise.
    source: authors, year. two_times: whether it needs a network of average velocities.
    """

    build: Callable[Concatenate[Builder, list[float], P], Form]
    order: int | None
    evaluations: str
    stochastic: bool
    source: str
    two_times: bool = False

    def __call__(self, *arguments: P.args, **options: P.kwargs) -> Solver[P]:
        """The solver with these options, which are given by name."""
        return self.with_options(arguments, options)

    def __reduce__(self) -> Any:
        if _SOLVERS.get(self.name) == self.bare:  # functions of the table go by their names
            return _restored, (self.name, dict(self.given))
        return super().__reduce__()

    def _remarks(self) -> str:
        order = "no order" if self.order is None else f"order {self.order}"
        noise = ", draws noise" if self.stochastic else ""
        return f"{order}, evaluations per step: {self.evaluations}{noise}. {self.source}."


_SOLVERS: dict[str, Solver[...]] = {}


def _restored(name: str, given: dict[str, Any]) -> Solver[...]:
    return get(name)(**given)


def register(
    name: str,
    *,
    order: int | None,
    evaluations: str = "1",
    stochastic: bool = False,
    source: str,
    two_times: bool = False,
) -> Callable[[Callable[Concatenate[Builder, list[float], P], Form]], Solver[P]]:
    """Add a solver: a function of a Builder, the times and options by name that returns the result.

    The decorated name is then the table's `Solver`; the function itself is its ``build``.

    Raises:
        ValueError: if the name is taken.
    """

    def add(build: Callable[Concatenate[Builder, list[float], P], Form]) -> Solver[P]:
        if name in _SOLVERS:
            raise ValueError(f"name={name!r}: a solver of that name is registered already")
        made = Solver(name, build, order, evaluations, stochastic, source, two_times)
        _SOLVERS[name] = made
        return made

    return add


def names(
    *,
    order: int | None = None,
    stochastic: bool | None = None,
    two_times: bool | None = None,
    evaluations: int | str | None = None,
) -> list[str]:
    """The solvers, alphabetically: all, or those of which everything that is given is true.

    Args:
        order: convergence order, weak for stochastic solvers.
        stochastic: whether it draws noise by default.
        two_times: whether it needs a network of average velocities.
        evaluations: network evaluations per step, 1 or "1" say.
    """
    asked: dict[str, Any] = {"order": order, "stochastic": stochastic, "two_times": two_times}
    if evaluations is not None:
        asked["evaluations"] = str(evaluations)
    asked = {name: value for name, value in asked.items() if value is not None}
    if not asked:
        return sorted(_SOLVERS)
    return sorted(
        name
        for name, row in _SOLVERS.items()
        if all(getattr(row, fact) == value for fact, value in asked.items())
    )


def get(name: str) -> Solver[...]:
    """The solver of that name.

    Raises:
        ValueError: naming the nearest known one.
    """
    if not isinstance(name, str) or name not in _SOLVERS:
        raise ValueError(f"solver={name!r}: {nearest(str(name), names())}")
    return _SOLVERS[name]


def known_options(
    solver: str | Solver[...], schedule: Schedule, timesteps: Timesteps | None
) -> list[str]:
    """Every keyword that `plan` takes for this solver and time grid."""
    if solver == AUTO:
        of_grid = grids.options(timesteps) if isinstance(timesteps, (str, Grid)) else ()
        return [*of_grid, *keywords(plan)]
    entry = solver if isinstance(solver, Solver) else get(solver)
    grid = schedule.default_grid if timesteps is None else timesteps
    of_grid = grids.options(grid) if isinstance(grid, (str, Grid)) else ()
    return [*keywords(entry.build), *of_grid, *keywords(plan)]


def plan(
    solver: str | Solver[...],
    schedule: Schedule,
    steps: int | None = None,
    *,
    timesteps: Timesteps | None = None,
    start: float | None = None,
    end: float = 0.0,
    reverse: bool = False,
    clip: tuple[float, float] | None = None,
    predicts: str = "velocity",
    reversible: bool | float | str = False,
    **options: Any,
) -> Plan:
    """Run a solver symbolically: which evaluations, where, and all coefficients in float64.

    Args:
        solver: one of `fastgen.solvers`, with options or without, ``solvers.ddim(eta=0.5)``; or
            its name. ``help(fastgen.solvers.ddim)`` shows the options of one. "auto" is the best of
            one evaluation in each step by the measurements for this many and for what the network
            predicts, on its grid unless ``timesteps`` are given: ``print(plan)`` says which and
            why.
        schedule: the process.
        steps: number of steps of the time grid (not needed with explicit times).
        timesteps: one of `fastgen.timesteps`, ``timesteps.karras(rho=5)`` say, its name, or the
            decreasing times themselves; the default is the schedule's ``default_grid``.
        start: first time; the default is the schedule's ``t_max``.
        end: last time; 0 is data.
        reverse: run the grid from ``end`` to ``start``, from data to noise (see `fastgen.invert`).
            Where alpha is 0 at the start, as in flows, solvers that have no step to there end with
            x = sigma eps.
        clip: bounds to which every data prediction is clipped, such as (-1, 1).
        predicts: what the network will predict, where a solver asks whether it can be evaluated
            at t = 0.
        reversible: whether the run can be retraced to rounding, for `fastgen.invert` (``exact``)
            and gradients in constant memory: a single-step solver's steps become those of a coupled
            pair of states (`fastgen.solvers.reversible`), with twice the evaluations. A number in
            (0, 1] is the coupling; True is 0.99. "belm" and "bdia" look both ways instead, at the
            solver's own evaluations: of steps of one evaluation, without noise.
        **options: the solver's own options and the grid's that have not been given to these;
            of a name that both know it is the solver's.

    Raises:
        TypeError: for an unknown option, naming the nearest one, and one that was given twice.
        ValueError: for an unknown solver, grid or unusable times.

    Example:
        >>> plan = fastgen.plan("heun", fastgen.schedules.Rectified(), steps=2)
        >>> plan.nfe  # evaluations of the network
        4
        >>> fastgen.Plan.from_json(plan.to_json()).nfe
        4
    """
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule: expected a fastgen.schedules.Schedule, got {schedule!r}")
    if isinstance(solver, str) and solver == AUTO:
        check_choice("predicts", predicts, QUANTITIES)
        solver, measured_on, note = chosen(schedule, steps, timesteps, predicts)
        given: dict[str, Any] = {"start": start, "end": end, "reverse": reverse, "clip": clip}
        given |= {
            "timesteps": measured_on if timesteps is None else timesteps,
            "predicts": predicts,
        }
        made = plan(solver, schedule, steps, reversible=reversible, **given, **options)
        return replace(made, note=note)
    entry = solver if isinstance(solver, Solver) else get(solver)
    own_names = keywords(entry.build)
    grid = schedule.default_grid if timesteps is None else timesteps
    if options:
        known = known_options(entry, schedule, timesteps)
        for option in options:
            if option not in known:
                raise TypeError(
                    f"unknown option {option!r} of {entry.name!r}: "
                    f"{nearest(option, ['steps', *known])}"
                )
    own = {k: v for k, v in options.items() if k in own_names}
    of_grid = {k: v for k, v in options.items() if k not in own_names}
    if entry.given:
        check_given_once(entry, own)
        entry, own = entry.bare, {**entry.given, **own}
    if isinstance(grid, Grid):
        check_given_once(grid, of_grid)
        grid, of_grid = grid.bare, {**grid.given, **of_grid}
    elif isinstance(grid, str):
        grid = grids.get(grid)
    check_choice("predicts", predicts, QUANTITIES)
    if not isinstance(reverse, (bool, np.bool_)):
        raise TypeError(f"reverse={reverse!r}: expected True or False")
    for name, value in (("start", start), ("end", end)):
        if value is not None or name == "end":
            check_number(name, value)
    coupling = coupling_of(reversible, reverse)
    low, high = (0.0, 1.0) if clip is None else check_pair("clip", clip)
    if not low < high:
        raise ValueError(f"clip={clip!r}: expected (low, high) with low < high")
    make = partial(
        _made,
        entry,
        own,
        schedule,
        grid,
        of_grid,
        steps,
        start,
        end,
        reverse,
        clip,
        predicts,
        coupling,
    )
    values = (
        steps,
        start,
        end,
        reverse,
        predicts,
        coupling,
        *(clip or ()),
        *own.values(),
        *of_grid.values(),
    )
    if (
        schedule.constant
        and isinstance(grid, Grid)
        and _is_own(entry.build)
        and _is_own(grid.build)
        and all(isinstance(v, str | int | float | None) for v in values)
    ):
        rows = entry.name, entry.build, grid.name, grid.build  # hashed without a call of ours
        key = *rows, schedule, repr((schedule, clip, values, own, of_grid))
        return kept_plans(key, make)
    return make()


# Plans that depend on their arguments alone: a loop of `fastgen.sample` asks for the same again.
kept_plans = Memo[Plan](64)


def _is_own(function: Callable[..., Any]) -> bool:
    """Whether it is this library's: a user's may give something else the next time."""
    return (function.__module__ or "").startswith("fastgen.")


def _explained(
    error: Exception,
    entry: Solver[...],
    schedule: Schedule,
    times: list[float],
    reverse: bool,
    own: Mapping[str, Any],
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


@uncollected()
def _made(
    entry: Solver[...],
    own: Mapping[str, Any],
    schedule: Schedule,
    grid: Grid[...] | Sequence[float] | np.ndarray,
    of_grid: Mapping[str, Any],
    steps: int | None,
    start: float | None,
    end: float,
    reverse: bool,
    clip: tuple[float, float] | None,
    predicts: str,
    coupling: float | str | None,
) -> Plan:
    times = grids.times(
        grid,
        schedule,
        steps,
        start=start if start is not None else schedule.t_max if isinstance(grid, Grid) else 1.0,
        end=end,
        **of_grid,
    )
    times = times[::-1].copy() if reverse else times
    planned = schedule.while_planning(times.tolist())
    builder = Builder(planned, predicts)
    build: SolverFunction = partial(entry.build, **own)
    if coupling is not None:
        build = reversible_steps(entry.name, build, coupling, planned, predicts)
        own = {**own, "reversible": coupling}
    try:
        with np.errstate(divide="ignore", invalid="ignore"):  # a missing limit is said below
            try:
                result = builder.let(build(builder, times.tolist()))
            except (MissingLimitError, ZeroDivisionError):
                if not reverse or schedule.alpha(float(times[-1])) > 0:
                    raise
                builder = Builder(planned, predicts)
                result = builder.let(_to_noise(builder, build, times.tolist()))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        message = _explained(error, entry, schedule, times.tolist(), reverse, own)
        if message is None:
            raise
        raise ValueError(message) from error
    return Plan(
        solver=entry.name,
        options=dict(own),
        schedule=schedule,
        times=times,
        instructions=tuple(builder.instructions),
        result=next(iter(result.terms)),  # type: ignore[arg-type]
        clip=clip,
    )


def _to_noise(p: Builder, build: SolverFunction, times: list[float]) -> Form:
    """The solver up to the last time but one, then x = sigma eps, as alpha is 0 at the last.

    For solvers of the reverse process, whose steps there are infinitely long in the log of the
    signal-to-noise ratio. One step of first order leaves a method of second order what it is.
    """
    x = build(p, times[:-1])
    return p.state(p.sigma(times[-1]) * p.epsilon(x, times[-2]), times[-1])
