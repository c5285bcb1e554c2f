"""Runge-Kutta beyond velocity.py: more tableaus, other variables, gradient estimation.

In r = sigma / alpha and y = x / alpha the probability flow has no linear part: dy / dr = eps
(Karras et al. 2022, arXiv 2206.00364). Where r is infinite (alpha = 0) and, for evaluations
there, at t = 0 a step is the exponential step, its limit.
"""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

from fastgen.common.checks import check_choice, check_nonnegative
from fastgen.common.tableau import Tableau
from fastgen.plans import Builder, Form
from fastgen.solvers.exponential import exponential_step
from fastgen.solvers.exponential_rk import PREDICTIONS, finite, predict
from fastgen.solvers.registry import register
from fastgen.solvers.velocity import EULER, HEUN, RK4, runge_kutta

MIDPOINT = Tableau((0.0, 0.5), ((), (0.5,)), (0.0, 1.0))
RALSTON = Tableau((0.0, 2 / 3), ((), (2 / 3,)), (0.25, 0.75))
RK3 = Tableau((0.0, 0.5, 1.0), ((), (0.5,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6))
THREE_EIGHTHS = Tableau(
    (0.0, 1 / 3, 2 / 3, 1.0),
    ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    (1 / 8, 3 / 8, 3 / 8, 1 / 8),
)
TABLEAUS = {
    "euler": EULER,
    "midpoint": MIDPOINT,
    "heun": HEUN,
    "ralston": RALSTON,
    "rk3": RK3,
    "rk4": RK4,
    "three_eighths": THREE_EIGHTHS,
}


@register("midpoint", order=2, evaluations="2", source="Runge 1895")
def midpoint(p: Builder, times: list[float]) -> Form:
    """x_t = x_s + (t - s) u(x_s + (t - s) / 2 u_s, (s + t) / 2)."""
    return runge_kutta(MIDPOINT)(p, times)


@register("ralston", order=2, evaluations="2", source="Ralston 1962, Math. Comp. 16")
def ralston(p: Builder, times: list[float]) -> Form:
    """Weights 1/4 and 3/4, second node at 2/3: the least error bound of two stages."""
    return runge_kutta(RALSTON)(p, times)


@register("rk3", order=3, evaluations="3", source="Kutta 1901")
def rk3(p: Builder, times: list[float]) -> Form:
    """Kutta's third-order method: nodes 0, 1/2, 1 and weights 1/6, 2/3, 1/6."""
    return runge_kutta(RK3)(p, times)


@register("three_eighths", order=4, evaluations="4", source="Kutta 1901")
def three_eighths(p: Builder, times: list[float]) -> Form:
    """The 3/8 rule: nodes 0, 1/3, 2/3, 1 and weights 1/8, 3/8, 3/8, 1/8."""
    return runge_kutta(THREE_EIGHTHS)(p, times)


def ratio_step(
    p: Builder, x: Form, s: float, t: float, tableau: Tableau, prediction: str = "noise"
) -> Form:
    """A Runge-Kutta step of d(x / alpha) / d(sigma / alpha) = eps, or of that in data prediction.

    That is d(x / sigma) / d(alpha / sigma) = D. Without a linear part a constant is integrated
    exactly (Karras et al. 2022, arXiv 2206.00364; Zhang and Chen 2022, arXiv 2204.13902).
    """
    if not finite(p, s, t):
        return exponential_step(p, x, p.denoise(x, s), s, t)
    power = 1 if prediction == "noise" else -1
    scale = p.alpha if prediction == "noise" else p.sigma
    start = p.schedule.ratio(s) ** power
    h = p.schedule.ratio(t) ** power - start
    values: list[Form] = []
    for c, row in zip((*tableau.c, 1.0), (*tableau.a, tableau.weights), strict=True):
        node = {0.0: s, 1.0: t}.get(c)
        if node is None:
            node = p.schedule.time_at_ratio((start + c * h) ** power)
        terms = (scale(node) * h * a * f for a, f in zip(row, values, strict=True))
        point = sum(terms, (scale(node) / scale(s)) * x)
        if len(values) < len(tableau.c):
            values.append(predict(p, point, node, prediction))
    return point


@register("rho_rk", order=2, evaluations="stages", source="Zhang and Chen 2022, arXiv 2204.13902")
def rho_rk(
    p: Builder, times: list[float], *, method: str = "heun", prediction: str = "noise"
) -> Form:
    """Any Runge-Kutta tableau in sigma / alpha (noise prediction) or alpha / sigma (data).

    rhoRK-DEIS; "heun" in noise prediction is EDM's solver and k-diffusion's sample_heun on every
    process. method: one of ``TABLEAUS``, of orders 1, 2, 2, 2, 3, 4, 4.
    """
    check_choice("prediction", prediction, PREDICTIONS)
    tableau = TABLEAUS[check_choice("method", method, list(TABLEAUS))]
    x = p.initial()
    for s, t in pairwise(times):
        x = p.state(ratio_step(p, x, s, t, tableau, prediction), t)
    return x


@register(
    "dpm_2", order=2, evaluations="2", source="Crowson 2022, k-diffusion (sample_dpm_2), KDPM2"
)
def dpm_2(p: Builder, times: list[float]) -> Form:
    """Midpoint method in r = sigma / alpha whose midpoint is the geometric mean of both ends.

    y_t = y_s + (r_t - r_s) eps(y_s + (r_m - r_s) eps_s, r_m), r_m = sqrt(r_s r_t).
    """
    x = p.initial()
    for s, t in pairwise(times):
        # (r_m - r_s) / (r_t - r_s), which tends to 1/2
        c = 1 / (1 + sqrt(p.schedule.ratio(t) / p.schedule.ratio(s)))
        x = p.state(ratio_step(p, x, s, t, Tableau((0.0, c), ((), (c,)), (0.0, 1.0))), t)
    return x


@register(
    "heunpp2", order=1, evaluations="3", source="Carzit, sd-webui-samplers-scheduler; ComfyUI"
)
def heunpp2(p: Builder, times: list[float]) -> Form:
    """Heun++: eps at this and the next two noise levels, weighted by those levels.

    With r = sigma / alpha and r_0 the largest, that of the first time but in inversion:
    y_{i+1} = y_i + (r_{i+1} - r_i) (w_1 eps_i + w_2 eps_{i+1} + w_3 eps_{i+2}),
    w_2 = r_{i+1} / (3 r_0), w_3 = r_{i+2} / (3 r_0), w_1 = 1 - w_2 - w_3, evaluated along Euler
    steps; the last step but one uses two evaluations with w_2 = r_{i+1} / (2 r_0), the
    last one. These weights sum to 1 and satisfy no further order condition: first order.
    """
    x, ratios = p.initial(), [p.schedule.ratio(t) for t in times]
    first = 0 if finite(p, times[0]) else 1
    largest = max(ratios[first], ratios[-1])
    for i, (s, t) in enumerate(pairwise(times)):
        ahead = min(3, len(times) - 1 - i)
        if i < first or ahead == 1:
            x = p.state(exponential_step(p, x, p.denoise(x, s), s, t), t)
            continue
        later = [ratios[i + k] / (ahead * largest) for k in range(1, ahead)]
        values = [p.epsilon(x, s)]
        point, here = x, s
        for node in times[i + 1 : i + ahead]:
            point = ratio_combine(p, point, here, node, [1.0], values[-1:])
            values.append(p.epsilon(point, node))
            here = node
        x = p.state(ratio_combine(p, x, s, t, [1 - sum(later), *later], values), t)
    return x


@register(
    "gradient_estimation", order=1, source="Permenter and Yuan 2023, arXiv 2306.04848, Alg. 2"
)
def gradient_estimation(p: Builder, times: list[float], *, gamma: float = 2.0) -> Form:
    """DDIM with eps + (gamma - 1) (eps - eps_last) for eps.

    gamma = 1 is DDIM and gamma = 3/2 the two-step Adams-Bashforth formula in sigma / alpha with
    constant coefficients; the paper's gamma = 2 is of first order.
    """
    check_nonnegative("gamma", gamma)
    x, older = p.initial(), None
    for s, t in pairwise(times):
        if not finite(p, s):
            x = p.state(exponential_step(p, x, p.denoise(x, s), s, t), t)
            continue
        eps = p.epsilon(x, s)
        values, weights = ([eps], [1.0]) if older is None else ([eps, older], [gamma, 1 - gamma])
        x = p.state(ratio_combine(p, x, s, t, weights, values), t)
        older = eps
    return x


def ratio_combine(
    p: Builder, x: Form, s: float, t: float, weights: list[float], values: list[Form]
) -> Form:
    """y_t = y_s + (r_t - r_s) sum w eps, for x = alpha y and r = sigma / alpha."""
    scale = p.alpha(t) * (p.schedule.ratio(t) - p.schedule.ratio(s))
    pairs = zip(weights, values, strict=True)
    return sum((scale * w * value for w, value in pairs), (p.alpha(t) / p.alpha(s)) * x)
