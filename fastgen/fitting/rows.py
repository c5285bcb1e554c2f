"""A plan as rows of coefficients over the whole history, and back: what is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from fastgen.common.display import displayed
from fastgen.model.parametrisation import Parametrisation
from fastgen.plans import Form, Plan
from fastgen.plans.builder import PREDICTED
from fastgen.plans.forms import (
    Evaluate,
    Instruction,
    Let,
    Normal,
    Prediction,
    State,
    Symbol,
    Value,
)

NAME = "tuned"  # of the solver of a fitted plan


class Row(NamedTuple):
    """One step: x_{k+1} = state x_k + sum_{j <= k} past[j] u_j + scale z.

    u_j is the prediction at x_j. noise: z with its draw and interval, or None.
    """

    state: float
    past: tuple[float, ...]
    noise: Normal | None = None
    scale: float = 0.0

    @property
    def coefficients(self) -> np.ndarray:
        """What multiplies [x_k, u_0, ..., u_k], [k + 2] in float64."""
        return np.array([self.state, *self.past])

    def with_coefficients(self, found: Sequence[float], scale: float | None = None) -> Row:
        """The row with others, and with another deviation of its noise if one is given."""
        state, *past = (float(c) for c in found)
        return self._replace(
            state=state, past=tuple(past), scale=self.scale if scale is None else scale
        )


@displayed
@dataclass(frozen=True)
class Rows:
    """A non-stationary solver: one row for each evaluation (Shaul et al. 2024, arXiv 2403.01329).

    plan: what it was made of, for its schedule, grid and clip. quantity: what all u_j are. times:
    those of the evaluations and of the result, [nfe + 1]. rows: [nfe].
    """

    plan: Plan
    quantity: str
    times: tuple[float, ...]
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, plan: Plan, parametrisation: Parametrisation) -> Rows:
        """The rows of any plan that is linear in one quantity of each evaluation.

        Every register is expanded, x_i = a_i x_0 + sum_j b_ij u_j + sum_m c_im z_m (as
        `Plan.canonical`, but with all predictions brought to what the network predicts). Step k
        then reads x_k in place of x_0: its factor is a_{k+1} / a_k, and what is left of b and c
        belongs to the history.

        Raises:
            ValueError: for noise or predictions that have no place in a row.
        """
        quantity = _quantity(parametrisation, plan)
        points = _expanded(plan, parametrisation, quantity)
        times = [e.time for e in plan.evaluations] + [float(plan.times[-1])]
        rows = []
        for k, (here, there) in enumerate(pairwise(points)):
            a, b = here.terms.get(Value(0), 0.0), there.terms.get(Value(0), 0.0)
            if a == 0 and b != 0:
                raise ValueError(
                    f"base: {plan.solver!r} has no row for evaluation {k + 1}: it reads the "
                    "initial state again after a state without it; take another solver"
                )
            state = b / a if a else 0.0
            rest = there - state * here
            past = [rest.terms.get(Prediction(j, quantity), 0.0) for j in range(k + 1)]
            noises = {s: c for s, c in rest.terms.items() if isinstance(s, Normal)}
            # What remains of noises before is rounding: they are in x_k.
            noises = {s: c for s, c in noises.items() if abs(c) > 1e-12 * abs(_most(there))}
            if len(noises) > 1:
                raise ValueError(
                    f"base: {plan.solver!r} has {len(noises)} noises between evaluations {k} and "
                    f"{k + 1}, and a row has one; take a solver with one fresh noise a step "
                    "(ddim(eta=...), euler_ancestral, ddpm), or from one without"
                )
            noise, scale = next(iter(noises.items()), (None, 0.0))
            rows.append(Row(state, tuple(past), noise, scale))
        return cls(plan, quantity, tuple(times), tuple(rows))

    @property
    def nfe(self) -> int:
        """Number of evaluations."""
        return len(self.rows)

    def with_rows(
        self,
        rows: Sequence[Row],
        times: Sequence[float] | None = None,
        grid: np.ndarray | None = None,
    ) -> Rows:
        """Others in the same places, or at other times."""
        plan = self.plan if grid is None else _on_grid(self.plan, grid)
        return Rows(plan, self.quantity, self.times if times is None else tuple(times), tuple(rows))

    def to_plan(self, note: str = "") -> Plan:
        """An ordinary plan that carries the rows out, one stage for each evaluation."""
        instructions: list[Instruction] = []
        ends = {t: k for k, t in enumerate(self.times)}  # the last point at each time
        for k, row in enumerate(self.rows):
            terms: dict[Symbol, float] = {Value(k): row.state}
            terms |= {Prediction(j, self.quantity): c for j, c in enumerate(row.past)}
            if row.noise is not None and row.scale:
                terms[row.noise] = row.scale
            instructions.append(Evaluate(Value(k), self.times[k]))
            instructions.append(Let(Value(k + 1), Form(terms)))
            end = self.times[k + 1]
            if ends[end] == k + 1 and end in self.plan.times:
                instructions.append(State(Value(k + 1), end))
        return Plan(
            NAME,
            {},
            self.plan.schedule,
            self.plan.times,
            tuple(instructions),
            Value(self.nfe),
            self.plan.clip,
            note=note,
        )

    def consistency(self) -> tuple[float, float]:
        """How far the rows are from exact where all data are one point m, whatever m is.

        There x_t = alpha_t m + sigma_t eps with one eps, and u = a m + b eps (`Parametrisation`).
        Order conditions of any order ask both coefficients of x_{k+1} to be those at t_{k+1}
        (Hairer, Norsett and Wanner 1993, II.1: sums of weights).

        Returns:
            The largest distances over all steps of the coefficient of m to alpha, and of that of
            eps to sigma. The second is nan where noise is drawn.
        """
        schedule = self.plan.schedule
        times = np.array(self.times)
        target = np.array([schedule.alpha(times), schedule.sigma(times)])
        known = Parametrisation(schedule, self.quantity)
        t = torch.tensor(self.times[:-1], dtype=torch.float64, device="cpu")
        u = torch.stack(known.target(t)).numpy()
        x, worst = target[:, 0], np.zeros(2)
        for k, row in enumerate(self.rows):
            x = row.state * x + u[:, : k + 1] @ np.array(row.past)
            worst = np.maximum(worst, np.abs(x - target[:, k + 1]))
        drawn = any(row.scale for row in self.rows)
        return float(worst[0]), float("nan") if drawn else float(worst[1])


def _most(form: Form) -> float:
    return max(map(abs, form.terms.values()))


def _quantity(parametrisation: Parametrisation, plan: Plan) -> str:
    """What a network's output is in a plan: itself, where plans know it and do not clip."""
    given = {"average_velocity": "velocity", "velocity_and_score": "velocity"}
    own = given.get(parametrisation.predicts, parametrisation.predicts)
    return own if own in PREDICTED and plan.clip is None else "data"


def _expanded(plan: Plan, parametrisation: Parametrisation, quantity: str) -> list[Form]:
    """Each evaluation's point and the result, in the initial state, the quantity and noises."""
    known = Parametrisation(plan.schedule, quantity, score_scale=1.0)
    values: dict[Value, Form] = {Value(0): Form({Value(0): 1.0})}
    calls: list[Evaluate] = []
    for i in plan.instructions:
        if isinstance(i, Evaluate):
            calls.append(i)
        elif isinstance(i, Let):
            total = Form({})
            for symbol, c in i.form.terms.items():
                if isinstance(symbol, Value):
                    total = total + c * values[symbol]
                elif isinstance(symbol, Normal):
                    total = total + Form({symbol: c})
                elif isinstance(symbol, Prediction) and not symbol.unconditional:
                    call = calls[symbol.evaluation]
                    p, q = known.conversion(symbol.quantity, call.time)
                    output = Form({Prediction(symbol.evaluation, quantity): 1.0})
                    total = total + c * (p * values[call.x] + q * output)
                else:
                    raise ValueError(
                        f"base: {plan.solver!r} reads {symbol!r}, which is not linear in the "
                        "guided output of one evaluation; take another solver"
                    )
            values[i.value] = total
    return [values[call.x] for call in calls] + [values[plan.result]]


def _on_grid(plan: Plan, grid: np.ndarray) -> Plan:
    """The plan's frame with other times."""
    return replace(plan, times=grid)
