"""What a solver is given: it records the arithmetic on symbolic values as instructions."""

from __future__ import annotations

import math

from fastgen.common.display import displayed
from fastgen.model.parametrisation import PAIR, QUANTITIES, Parametrisation
from fastgen.plans.forms import (
    Computed,
    Evaluate,
    Form,
    Instruction,
    Let,
    Normal,
    Prediction,
    State,
    Symbol,
    Value,
    name,
)
from fastgen.schedules import Schedule

PREDICTED = tuple(q for q in QUANTITIES if q not in ("edm", PAIR))


@displayed
class Predictions:
    """The quantities of one network evaluation, as forms."""

    def __init__(self, evaluation: int, unconditional: bool = False) -> None:
        self._evaluation, self._unconditional = evaluation, unconditional

    def _facts(self) -> dict[str, object]:
        return {"evaluation": self._evaluation, "unconditional": self._unconditional}

    def __getattr__(self, quantity: str) -> Form:
        """The form of "data", "noise", "velocity", "v", "score" or "average_velocity"."""
        if quantity not in PREDICTED:
            raise AttributeError(f"{quantity}: expected one of {', '.join(PREDICTED)}")
        form = Form({Prediction(self._evaluation, quantity, self._unconditional): 1.0})
        self.__dict__[quantity] = form  # multistep solvers ask again and again
        return form

    @property
    def unconditional(self) -> Predictions:
        """The same of guidance's unconditional branch, neither guided nor clipped."""
        return Predictions(self._evaluation, unconditional=True)


@displayed
class Builder:
    """What a solver is given: symbolic values in, recorded instructions out.

    ``schedule`` and the short-cuts ``alpha``, ``sigma``, ``half_log_snr`` are float64.
    ``predicts`` is what the network is expected to predict; only `has_velocity` asks for it.
    ``drawn`` is the number of noises that an earlier part of the run has drawn.
    """

    def __init__(self, schedule: Schedule, predicts: str = "velocity", drawn: int = 0) -> None:
        self.schedule = schedule
        self._parametrisation = Parametrisation(schedule, predicts)
        self.alpha, self.sigma = schedule.alpha, schedule.sigma
        self.half_log_snr = schedule.half_log_snr
        self.instructions: list[Instruction] = []
        self._known: dict[frozenset[tuple[Symbol, float]], Value] = {}
        self._evaluations, self._draws = 0, drawn
        self._latest: tuple[Evaluate, Predictions] | None = None

    def _facts(self) -> dict[str, object]:
        facts = {"schedule": self.schedule, "instructions": len(self.instructions)}
        return {**facts, "evaluations": self._evaluations, "noises": self._draws}

    @property
    def drawn(self) -> int:
        """Number of noises so far."""
        return self._draws

    def initial(self) -> Form:
        """The state at the first time of the grid."""
        return Form({Value(0): 1.0})

    def let(self, form: Form) -> Form:
        """Materialise a form: later expressions refer to the register, not to its terms."""
        terms = list(form.terms.items())
        if len(terms) == 1 and isinstance(terms[0][0], Value) and terms[0][1] == 1.0:
            return form
        if not terms:
            raise ValueError("a form without terms cannot be a register: its coefficients are 0")
        bad = [name(symbol) for symbol, c in terms if not math.isfinite(c)]
        if bad:
            raise ValueError(f"the coefficient of {', '.join(bad)} is not finite in {form!r}")
        key = frozenset(terms)
        if key not in self._known:  # the last stage of a tableau may equal the step's result
            self._known[key] = Value(len(self._known) + 1)
            self.instructions.append(Let(self._known[key], form))
        return Form({self._known[key]: 1.0})

    def state(self, form: Form, t: float) -> Form:
        """Materialise a form and call it the solver's state at time t."""
        form = self.let(form)
        self.instructions.append(State(_register(form), float(t)))
        return form

    def predict(self, x: Form, t: float, until: float | None = None) -> Predictions:
        """One network evaluation at state x and time t (none if it was just evaluated there).

        until: the second time, for networks of average velocities.
        """
        call = Evaluate(_register(self.let(x)), float(t), until)
        if self._latest is None or self._latest[0] != call:
            self.instructions.append(call)
            self._latest = (call, Predictions(self._evaluations))
            self._evaluations += 1
        return self._latest[1]

    def denoise(self, x: Form, t: float) -> Form:
        """The data prediction at (x, t)."""
        return self.predict(x, t).data

    def epsilon(self, x: Form, t: float) -> Form:
        """The noise prediction at (x, t)."""
        return self.predict(x, t).noise

    def velocity(self, x: Form, t: float) -> Form:
        """The probability-flow velocity dx/dt at (x, t)."""
        return self.predict(x, t).velocity

    def average_velocity(self, x: Form, s: float, t: float) -> Form:
        """The mean velocity along the flow from (x, s) to t: (x_t - x_s) / (t - s)."""
        return self.predict(x, s, float(t)).average_velocity

    def has_velocity(self, t: float) -> bool:
        """Whether the velocity can be evaluated at t (not where sigma' is infinite, say)."""
        if not self.schedule.regular_at(t):
            return False
        try:
            self._parametrisation.conversion("velocity", t)
        except ValueError:
            return False
        return True

    def score(self, x: Form, t: float) -> Form:
        """The score, grad log p_t, at (x, t)."""
        return self.predict(x, t).score

    def learned_noise(self, small: float, large: float) -> Form:
        """Noise whose standard deviation the latest evaluation's network predicts per element.

        exp((f log large^2 + (1 - f) log small^2) / 2) z, f = (v + 1) / 2, v the second half of
        the network's channels (Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 15).
        """
        return self._computed("learned_noise", (small, large))

    def langevin_move(self, x: Form, t: float, snr: float) -> Form:
        """The Langevin step at (x, t) whose size each sample's norms set.

        tau score + sqrt(2 tau) z with tau = 2 (snr |z| / |score|)^2 (Song et al. 2021, arXiv
        2011.13456, Alg. 4 and 5, there with norms averaged over the batch).
        """
        self.predict(x, t)
        return self._computed("langevin", (snr,))

    def _computed(self, kind: str, numbers: tuple[float, ...]) -> Form:
        self._draws += 1
        return Form({Computed(self._evaluations - 1, kind, self._draws, numbers): 1.0})

    def noise(self, s: float, t: float) -> Form:
        """Fresh unit Gaussian noise for the interval from s down to t."""
        self._draws += 1
        return Form({Normal(self._draws, float(s), float(t)): 1.0})


def _register(form: Form) -> Value:
    (symbol,) = form.terms
    assert isinstance(symbol, Value)
    return symbol
