"""The loop of linear multistep solvers, and what it does before the history is there."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import isfinite
from typing import TypeAlias

from fastgen.common.checks import check_choice
from fastgen.plans import Builder, Form
from fastgen.plans.builder import Predictions
from fastgen.solvers.exponential import exponential_step
from fastgen.solvers.velocity_rk import ratio_combine

Past: TypeAlias = list[tuple[float, Predictions]]  # times and evaluations, newest last
# x_t from x_s through the predictions at the nodes, of which the last is at s.
Step: TypeAlias = Callable[[Form, float, float, Past], Form]
# x_t from x_s and the predictions at both.
Correction: TypeAlias = Callable[[Builder, Form, float, float, Predictions, Predictions], Form]
STARTERS = ("lower", "corrected")


def prediction_mean(
    p: Builder, x: Form, s: float, t: float, first: Predictions, last: Predictions
) -> Form:
    """The trapezoidal rule where the prediction is smooth, with its limits at both ends.

    Toward data x_t = (sigma_t / sigma_s) x_s + sigma_t int D d(alpha / sigma): a start has more
    noise than data, and there D is smooth in alpha / sigma. From data to noise x_t =
    (alpha_t / alpha_s) x_s + alpha_t int eps d(sigma / alpha).
    """
    if t > s:
        return ratio_combine(p, x, s, t, [0.5, 0.5], [first.noise, last.noise])
    return exponential_step(p, x, 0.5 * first.data + 0.5 * last.data, s, t)


def velocity_mean(
    p: Builder, x: Form, s: float, t: float, first: Predictions, last: Predictions
) -> Form:
    """The trapezoidal rule for x_t = x_s + int u dt."""
    return x + 0.5 * (t - s) * first.velocity + 0.5 * (t - s) * last.velocity


def multistep(
    p: Builder,
    times: list[float],
    order: int,
    step: Step,
    correction: Correction = prediction_mean,
    starter: str = "lower",
    lower_order_final: bool = False,
) -> Form:
    """Steps through the last ``order`` predictions, started with fewer.

    A first step with a constant prediction has an error of O(h^2), which a method of order 3 or
    more keeps: "lower" leaves its order at 2. With the starter "corrected" the evaluation at that
    step's end, which the next one needs anyway, repeats it by the trapezoidal rule: no evaluation
    more. The state is then right to O(h^3), and the prediction, made at the state before the
    correction, to O(h^2). It counts in ``order`` - 1 steps, times h, so what is left is O(h^3) in
    all: order 3. From alpha = 0, where a polynomial in log-SNR has no node, two steps have a
    constant prediction, and both are corrected.
    """
    correct = check_choice("starter", starter, STARTERS) == "corrected" and order > 1
    first_steps = 1 if isfinite(p.half_log_snr(times[0])) or correction is velocity_mean else 2
    x = p.initial()
    past, before = Past(), x
    for i, (s, t) in enumerate(pairwise(times)):
        past.append((s, p.predict(x, s)))
        if correct and 1 <= i <= first_steps:
            (last, at), (_, now) = past[-2:]
            x = p.state(correction(p, before, last, s, at, now), s)
        count = min(order, len(times) - 1 - i) if lower_order_final else order
        before, x = x, step(x, s, t, past[-count:])
        if not correct or i >= first_steps or t == times[-1]:
            x = p.state(x, t)
    return x
