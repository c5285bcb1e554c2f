"""Reversible steps: any explicit single-step solver as a pair of states that can be run back.

With the solver's step Phi from time s to t, and one back from t to s,

    y' = c y + (1 - c) z + Phi(z; s, t) - z,
    z' = z - (Phi(y'; t, s) - y').

Given (y', z') the second line gives z and then the first one y, without solving anything: the run
can be retraced to rounding, whatever the network. It has the order of the solver; a coupling c
below 1 gives it a region of stability (McCallum and Foster 2024, arXiv 2410.11648). With the steps
of exponential solvers it is Rex (Blasingame and Liu 2025), stochastic ones
included: there the step back is the step's own formula solved for its start, with the prediction
at its end and the same noise.

Steps of one evaluation may also look both ways from the state between,

    x_{n+1} = Phi(x_n; t_n, t_{n+1}) + g_n (x_{n-1} - Phi(x_n; t_n, t_{n-1})),

and back by the same line, at one evaluation a step: "bdia" with g = 1 (Zhang, Lewis and Kleijn
2023, arXiv 2307.10829), "belm" with the g_n that makes it second order (O-BELM, Wang et al. 2024,
arXiv 2410.07273, which it is for dpm_solver_1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fastgen.common.checks import check_choice, check_number
from fastgen.plans import Builder
from fastgen.plans.forms import (
    Evaluate,
    Form,
    Instruction,
    Let,
    Normal,
    Prediction,
    Value,
)
from fastgen.schedules import Schedule

Build = Callable[..., Form]
COUPLING = 0.99
RULES = ("belm", "bdia")


def coupling_of(reversible: Any, reverse: bool = False) -> float | str | None:
    """The coupling or the rule that `fastgen.plan` was asked for, None without.

    Raises:
        ValueError: for one outside of (0, 1], and of a plan that is run from data to noise.
    """
    if reversible is False:
        return None
    if isinstance(reversible, str):
        return check_choice("reversible", reversible, RULES)
    coupling = COUPLING if reversible is True else check_number("reversible", reversible)
    if not 0 < coupling <= 1:
        raise ValueError(f"reversible={reversible!r}: expected a coupling in (0, 1], or True")
    if reverse:
        raise ValueError("reversible, reverse: fastgen.invert(..., exact=True) runs a plan back")
    return coupling


class _Step(Builder):
    """A part of what a builder records, from another start; its states are mere registers."""

    __slots__ = ("start",)

    def __init__(self, whole: Builder, start: Form) -> None:
        self.__dict__ = whole.__dict__  # what either records the other has recorded
        self.start = start

    def initial(self) -> Form:
        """Where the part begins."""
        return self.start

    def state(self, form: Form, t: float) -> Form:
        """A register, which is no state of the whole."""
        return self.let(form)


@dataclass(frozen=True)
class _Formula:
    """A step that is start * x + predictions + noises, whatever its evaluations are made at."""

    start: float
    predictions: tuple[tuple[Prediction, float], ...]
    noises: tuple[tuple[Normal, float], ...]

    def there(self, p: Builder, x: Form, s: float) -> Form:
        """Its end, from its start x at time s."""
        found, total = p.predict(x, s), self.start * x
        for a, c in self.predictions:
            total = total + c * getattr(found, a.quantity)
        return total

    def back(self, p: Builder, y: Form, s: float, t: float) -> Form:
        """Its start at time s, from its end y at time t and the predictions there."""
        mean = any(a.quantity == "average_velocity" for a, _ in self.predictions)
        found = p.predict(y, t, s if mean else None)
        total = y
        for a, c in self.predictions:
            total = total - c * getattr(
                found.unconditional if a.unconditional else found, a.quantity
            )
        for z, c in self.noises:
            total = total - Form({z: c})
        return total / self.start


class Bidirectional:
    """A solver's steps from the state between, by a rule.

    Args:
        solver, build, schedule, predicts: as of `Reversible`.
        rule: "belm" or "bdia".

    Raises:
        ValueError: where a step is not of one evaluation, or draws noise.
    """

    def __init__(
        self, solver: str, build: Build, rule: str, schedule: Schedule, predicts: str
    ) -> None:
        self.steps = Reversible(solver, build, 1.0, schedule, predicts)
        self.rule = rule

    def __call__(self, p: Builder, times: list[float]) -> Form:
        """The whole run."""
        self.steps.check_single_step(times)
        older, x = None, p.initial()
        for n, t in enumerate(times[1:]):
            new = self.middle(p, x, times, n)
            if older is not None:
                new = new + self.weight(times, n) * older
            older, x = x, p.state(new, t)
        return x

    def middle(self, p: Builder, x: Form, times: list[float], n: int) -> Form:
        """The part of step n that is made at its own state: Phi there, less g Phi back."""
        moved = self._formula(times, n).there(p, x, times[n])
        if n == 0:
            return moved
        return moved - self.weight(times, n) * self.back(p, x, times, n)

    def back(self, p: Builder, x: Form, times: list[float], n: int) -> Form:
        """Phi(x; t_n, t_{n-1})."""
        return self._formula(times, n - 1).back(p, x, times[n - 1], times[n])

    def weight(self, times: list[float], n: int) -> float:
        """g_n, for n of 1 and more."""
        if self.rule == "bdia":
            return 1.0
        ahead, behind = self._formula(times, n), self._formula(times, n - 1)
        forward, backward = (f.predictions[0][1] for f in (ahead, behind))
        ratio = forward / ahead.start / backward
        return ratio * ratio * ahead.start * behind.start

    def _formula(self, times: list[float], n: int) -> _Formula:
        found = self.steps.formula(times[n], times[n + 1])
        if found is None or found.noises or len(found.predictions) != 1:
            raise ValueError(
                f"reversible={self.rule!r}: a step of {self.steps.solver!r} is not one evaluation "
                "without noise; take ddim, dpm_solver_1 or euler, or reversible=True"
            )
        return found


class Reversible:
    """A solver's steps there and back.

    Args:
        solver: its name.
        build: its function, given its options.
        coupling: c, above 0 and at most 1.
        schedule: as it is while planning.
        predicts: see `fastgen.plan`.

    Raises:
        ValueError: where a solver is not a single-step one, or has no step back.
    """

    def __init__(
        self, solver: str, build: Build, coupling: float, schedule: Schedule, predicts: str
    ) -> None:
        self.solver, self.build, self.coupling = solver, build, coupling
        self.schedule, self.predicts = schedule, predicts

    def __call__(self, p: Builder, times: list[float]) -> Form:
        """The whole run, which ends with y: the last z takes an evaluation that nothing reads."""
        self.check_single_step(times)
        y = z = p.initial()
        for s, t in pairwise(times):
            moved = self.there(p, z, s, t)
            y = p.state(self.coupling * y + (1 - self.coupling) * z + moved - z, t)
            if t != times[-1]:
                z = p.let(z - self.back(p, y, s, t) + y)
        return y

    def there(self, p: Builder, z: Form, s: float, t: float) -> Form:
        """Phi(z; s, t)."""
        return self.build(_Step(p, z), [s, t])

    def back(self, p: Builder, y: Form, s: float, t: float) -> Form:
        """Phi(y; t, s), with the noises that ``there`` has drawn last."""
        alone = Builder(self.schedule, self.predicts)
        end = self.build(alone, [s, t])
        points = [i.x for i in alone.instructions if isinstance(i, Evaluate)]
        if alone.drawn or points == [Value(0)]:
            return self._formula(alone, end, p.drawn - alone.drawn).back(p, y, s, t)
        return self.build(_Step(p, y), [t, s])

    def formula(self, s: float, t: float) -> _Formula | None:
        """A step of one evaluation, at its start; None for another."""
        alone = Builder(self.schedule, self.predicts)
        end = self.build(alone, [s, t])
        points = [i.x for i in alone.instructions if isinstance(i, Evaluate)]
        return self._formula(alone, end, 0) if points == [Value(0)] else None

    def _formula(self, alone: Builder, end: Form, drawn: int) -> _Formula:
        """The step in terms of its start; ``drawn``: noises of the run before it."""
        values: dict[Value, Form] = {}
        for i in alone.instructions:
            if isinstance(i, Let):
                values[i.value] = _expanded(i.form, values)
        terms = _expanded(end, values).terms
        start = terms.pop(Value(0), 0.0)
        predictions = [(a, c) for a, c in terms.items() if isinstance(a, Prediction)]
        noises = [
            (Normal(drawn + z.draw, z.start, z.end), c)
            for z, c in terms.items()
            if isinstance(z, Normal)
        ]
        if not start or len(predictions) + len(noises) < len(terms):
            raise ValueError(
                f"reversible: a step of {self.solver!r} has no step back, as its result does not "
                "depend on its start alone, predictions and noise; take ddim, heun or ddpm, say"
            )
        return _Formula(start, tuple(predictions), tuple(noises))

    def check_single_step(self, times: Sequence[float]) -> None:
        """Raise a ValueError if the run is not its steps one after the other."""
        whole, steps = (Builder(self.schedule, self.predicts) for _ in range(2))
        x = self.build(whole, list(times))
        y = steps.initial()
        for s, t in pairwise(times):
            y = steps.let(self.build(_Step(steps, y), [s, t]))
        if _plain(whole.instructions) != _plain(steps.instructions) or x.terms != y.terms:
            raise ValueError(
                f"reversible: {self.solver!r} reads earlier steps, or has other steps at the ends; "
                "take a single-step solver (ddim, heun, rk4, exponential_heun, dpmpp_2s ...)"
            )


def reversible_steps(
    solver: str, build: Build, coupling: float | str, schedule: Schedule, predicts: str
) -> Reversible | Bidirectional:
    """The steps that `fastgen.plan` was asked for."""
    if isinstance(coupling, str):
        return Bidirectional(solver, build, coupling, schedule, predicts)
    return Reversible(solver, build, coupling, schedule, predicts)


def _expanded(form: Form, values: Mapping[Value, Form]) -> Form:
    """A form in terms of what no register of ``values`` is."""
    return sum(
        (
            c * (values[a] if isinstance(a, Value) and a in values else Form({a: 1.0}))
            for a, c in form.terms.items()
        ),
        Form({}),
    )


def _plain(instructions: Sequence[Instruction]) -> list[Any]:
    """What is recorded, without the states, to be compared."""
    return [
        (i.value, i.form.terms) if isinstance(i, Let) else i
        for i in instructions
        if isinstance(i, Let | Evaluate)
    ]
