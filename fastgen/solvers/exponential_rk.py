"""Runge-Kutta steps that are exact for a constant data or noise prediction.

With lambda = log(alpha / sigma), h = lambda_t - lambda_s and tau in [0, 1] along the step,
variation of constants gives for the data prediction D (Lu et al. 2022, arXiv 2211.01095) and
the noise prediction eps (Lu et al. 2022, arXiv 2206.00927)

    x_t = (sigma_t / sigma_s) x_s + alpha_t h int e^{-(1 - tau) h} D d tau,
    x_t = (alpha_t / alpha_s) x_s - sigma_t h int e^{(1 - tau) h} eps d tau.

A solver approximates D or eps by a polynomial; the integrals are k! phi_{k+1}(z), z = -h or h.
With a constant polynomial both are the same step, DDIM. Where lambda is infinite (t = 0, or
alpha = 0 at the start) interpolation has no meaning, and the step is DDIM's limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fastgen.common.checks import check_choice
from fastgen.plans import Builder, Form
from fastgen.solvers.exponential import exponential_step
from fastgen.solvers.registry import register

PREDICTIONS = ("data", "noise")
SECOND = {"midpoint": "bh2", "heun": "exact"}


def phi(k: int, z: float) -> float:
    """phi_k(z) = int_0^1 e^{(1 - tau) z} tau^{k-1} / (k-1)! d tau, phi_0(z) = e^z.

    No cancellation: for |z| < 20 by a series of positive terms, sum z^n / (n + k)! or, for
    z < 0, e^z sum |z|^n / (n! (n + k)) / (k - 1)!; else by phi_{k+1} = (phi_k - 1 / k!) / z.
    """
    if k == 0:
        return math.exp(z)
    if k == 1:
        return math.expm1(z) / z if z else 1.0
    if abs(z) >= 20:
        return (phi(k - 1, z) - 1 / math.factorial(k - 1)) / z
    terms: list[float] = []
    term, n = 1.0, 0
    while not terms or terms[-1] > 1e-19 * terms[0] or n < abs(z):
        terms.append(term / math.perm(n + k, k) if z >= 0 else term / (n + k))
        n += 1
        term *= abs(z) / n
    total = math.fsum(terms)
    return total if z >= 0 else total * math.exp(z) / math.factorial(k - 1)


def moments(z: float, count: int, rule: str = "exact") -> list[float]:
    """Integrals of e^{(1 - tau) z} tau^k over [0, 1], k < count: k! phi_{k+1}(z).

    rule: with two moments the second may be "bh1": 1 / 2 or "bh2": phi_1 / 2 instead of "exact":
    phi_2, as UniPC's B(h) and the midpoint form of DPM-Solver have it; all agree to O(z).
    """
    result = [math.factorial(k) * phi(k + 1, z) for k in range(count)]
    if count == 2 and rule != "exact":
        result[1] = result[0] / 2 if rule == "bh2" else 0.5
    return result


def lagrange_weights(nodes: Sequence[float], integrals: Sequence[float]) -> list[float]:
    """The weights of values at ``nodes`` that integrate tau^k to integrals[k], k < len(nodes)."""
    at, count = np.array(nodes), len(nodes)
    distances = at - at[:, None]
    np.fill_diagonal(distances, 1.0)
    # Coefficients of every node's Lagrange polynomial, the constant first: [nodes, powers].
    lagrange = np.zeros((count, count))
    lagrange[:, 0] = 1.0
    for i, distance in enumerate(distances[:, :, None]):
        product = lagrange * -at[i]
        product[:, 1:] += lagrange[:, :-1]
        product /= distance
        product[i] = lagrange[i]  # a polynomial has no factor of its own node
        lagrange = product
    return [math.fsum(row) for row in (lagrange * np.array(integrals)).tolist()]


@dataclass(frozen=True)
class Interval:
    """Variation of constants: x_t = keep x_s + scale int e^{(1 - tau) z} prediction d tau."""

    keep: float
    scale: float
    z: float
    h: float

    def combine(self, x: Form, weights: Sequence[float], values: Sequence[Form]) -> Form:
        """x_t for the weights that the integral gives the predictions."""
        pairs = zip(weights, values, strict=True)
        return sum((self.scale * w * value for w, value in pairs), self.keep * x)


def interval(p: Builder, s: float, t: float, prediction: str) -> Interval:
    """The step from s to t in data or in noise prediction; see the module."""
    h = p.half_log_snr(t) - p.half_log_snr(s)
    if prediction == "data":
        return Interval(p.sigma(t) / p.sigma(s), p.alpha(t) * h, -h, h)
    return Interval(p.alpha(t) / p.alpha(s), -p.sigma(t) * h, h, h)


def predict(p: Builder, x: Form, t: float, prediction: str) -> Form:
    """The data or the noise prediction at (x, t)."""
    return p.denoise(x, t) if prediction == "data" else p.epsilon(x, t)


def finite(p: Builder, *times: float) -> bool:
    """Whether the log-SNR is finite at all of these times."""
    return all(math.isfinite(p.half_log_snr(t)) for t in times)


Row = Callable[[float], tuple[float, ...]]


@dataclass(frozen=True)
class ExponentialTableau:
    """An explicit exponential Runge-Kutta method (Hochbruck and Ostermann 2010, Acta Numerica 19).

    c: nodes, as fractions of the step in log-SNR, the first 0. rows: one for each later node and
    one for the result. rows[i](z), with the z of the interval from s to the node, gives the weights
    of all known predictions but the first. The weight of the first makes their sum phi_1(z).
    """

    c: tuple[float, ...]
    rows: tuple[Row, ...]

    def nodes(self, p: Builder, times: Sequence[float]) -> list[list[float]]:
        """Where the nodes of all steps lie in log-SNR."""
        levels = [p.half_log_snr(t) for t in times]
        inner = [a + c * (b - a) for a, b in pairwise(levels) for c in self.c if 0 < c < 1]
        found = iter(p.schedule.times_at(inner))
        return [
            [next(found) if 0 < c < 1 else t if c else s for c in self.c]
            for s, t in pairwise(times)
        ]

    def step(
        self,
        p: Builder,
        x: Form,
        s: float,
        t: float,
        prediction: str,
        at: Sequence[float],
        states: bool = False,
    ) -> Form:
        """x_t from x_s, evaluating ``at`` the nodes' times, which are ``states`` of the solver."""
        if not finite(p, s, t):
            return exponential_step(p, x, p.denoise(x, s), s, t)
        values = [predict(p, x, s, prediction)]
        for node, row in zip([*at[1:], t], self.rows, strict=True):
            step = interval(p, s, node, prediction)
            later = row(step.z)
            point = step.combine(x, (phi(1, step.z) - sum(later), *later), values)
            if len(values) == len(self.c):
                break
            point = p.state(point, node) if states else point
            values.append(predict(p, point, node, prediction))
        return point


def exponential_runge_kutta(
    tableau: ExponentialTableau, prediction: str
) -> Callable[[Builder, list[float]], Form]:
    """The solver of an exponential tableau in data or in noise prediction."""
    check_choice("prediction", prediction, PREDICTIONS)

    def solve(p: Builder, times: list[float]) -> Form:
        x = p.initial()
        for s, t, at in zip(times, times[1:], tableau.nodes(p, times), strict=False):
            x = p.state(tableau.step(p, x, s, t, prediction, at), t)
        return x

    return solve


def one_stage() -> ExponentialTableau:
    """The exponential Euler method: DDIM."""
    return ExponentialTableau((0.0,), (lambda z: (),))


def two_stages(c2: float, solver_type: str = "heun") -> ExponentialTableau:
    """Weight phi_2 / c2 ("heun") or phi_1 / (2 c2) ("midpoint") for the second prediction."""
    rule = SECOND[check_choice("solver_type", solver_type, list(SECOND))]
    if not 0 < c2 <= 1:
        raise ValueError(f"node {c2!r} of the second stage: expected 0 < node <= 1")
    return ExponentialTableau((0.0, c2), (lambda z: (), lambda z: (moments(z, 2, rule)[1] / c2,)))


def three_stages(c2: float, c3: float, solver_type: str) -> ExponentialTableau:
    """The third prediction at c3, of a step as in `two_stages`, then one of two results.

    "dpmsolver": stage with phi_2, result phi_1 D + phi_2 (D_3 - D) / c3; "midpoint": the same
    with the stage's phi_1 / 2; "heun": result exact for the quadratic through all three. Each is
    of third order for c3 = 2/3 and, D_2 being of first-order accuracy, of second order otherwise
    (`res_3s` is of third order for all nodes).
    """
    check_choice("solver_type", solver_type, ("dpmsolver", "midpoint", "heun"))
    if not (0 < c2 <= 1 and 0 < c3 <= 1 and c2 != c3):
        raise ValueError(f"nodes {c2!r} and {c3!r}: expected different nodes in (0, 1]")
    rule = "bh2" if solver_type == "midpoint" else "exact"

    def result(z: float) -> tuple[float, ...]:
        if solver_type == "heun":
            return tuple(lagrange_weights((0.0, c2, c3), moments(z, 3))[1:])
        return 0.0, phi(2, z) / c3

    stage: Row = lambda z: (moments(z, 2, rule)[1] * c3 / c2,)  # noqa: E731
    return ExponentialTableau((0.0, c2, c3), (lambda z: (), stage, result))


@register("dpm_solver_1", order=1, source="Lu et al. 2022, DPM-Solver, arXiv 2206.00927, eq. 3.7")
def dpm_solver_1(p: Builder, times: list[float]) -> Form:
    """x_t = (alpha_t / alpha_s) x_s - sigma_t (e^h - 1) eps: DDIM in noise prediction."""
    return exponential_runge_kutta(one_stage(), "noise")(p, times)


@register("dpm_solver_2", order=2, evaluations="2", source="Lu et al. 2022, arXiv 2206.00927")
def dpm_solver_2(
    p: Builder, times: list[float], *, r1: float = 0.5, solver_type: str = "midpoint"
) -> Form:
    """Algorithm 4: eps at lambda_s + r1 h corrects DPM-Solver-1, in noise prediction.

    x_t = (alpha_t / alpha_s) x_s - sigma_t h [phi_1(h) eps + w (eps_1 - eps)] with
    w = phi_1(h) / (2 r1) ("midpoint", the paper's) or phi_2(h) / r1 ("heun").
    """
    return exponential_runge_kutta(two_stages(r1, solver_type), "noise")(p, times)


@register("dpm_solver_3", order=3, evaluations="3", source="Lu et al. 2022, arXiv 2206.00927")
def dpm_solver_3(
    p: Builder,
    times: list[float],
    *,
    r1: float = 1 / 3,
    r2: float = 2 / 3,
    solver_type: str = "dpmsolver",
) -> Form:
    """Algorithm 5: eps at lambda_s + r1 h and + r2 h, in noise prediction; see `three_stages`."""
    return exponential_runge_kutta(three_stages(r1, r2, solver_type), "noise")(p, times)


@register("dpmpp_2s", order=2, evaluations="2", source="Lu et al. 2022, arXiv 2211.01095, Alg. 1")
def dpmpp_2s(
    p: Builder, times: list[float], *, r: float = 0.5, solver_type: str = "midpoint"
) -> Form:
    """DPM-Solver++ (2S): `dpm_solver_2` in data prediction.

    x_t = (sigma_t / sigma_s) x_s - alpha_t (e^{-h} - 1) [(1 - 1/(2r)) D + D_1 / (2r)].
    """
    return exponential_runge_kutta(two_stages(r, solver_type), "data")(p, times)


@register("dpmpp_3s", order=3, evaluations="3", source="Lu et al. 2022, arXiv 2211.01095, app. B")
def dpmpp_3s(
    p: Builder,
    times: list[float],
    *,
    r1: float = 1 / 3,
    r2: float = 2 / 3,
    solver_type: str = "dpmsolver",
) -> Form:
    """DPM-Solver++ (3S): `dpm_solver_3` in data prediction."""
    return exponential_runge_kutta(three_stages(r1, r2, solver_type), "data")(p, times)


@register("dpm_solver_singlestep", order=2, source="Lu et al. 2022, arXiv 2206.00927, app. C")
def dpm_solver_singlestep(
    p: Builder,
    times: list[float],
    *,
    order: int = 2,
    prediction: str = "data",
    solver_type: str = "midpoint",
    lower_order_final: bool = False,
) -> Form:
    """DPM-Solver (++) whose inner nodes are points of the grid: one evaluation per interval.

    Blocks of ``order`` intervals, 1 to 3, are steps of DPM-Solver-1, -2 or -3; what remains is a
    shorter block ("DPM-Solver-fast"). The last interval is a block alone when it ends at t = 0, or
    with lower_order_final where nothing remains.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order={order!r}: expected 1, 2 or 3")
    check_choice("prediction", prediction, PREDICTIONS)
    head = [] if finite(p, times[0]) else [1]
    full, rest = divmod(len(times) - 1 - len(head), order)
    blocks = [*head, *[order] * full, *([rest] if rest else [])]
    if blocks[-1] > 1 and (not finite(p, times[-1]) or (lower_order_final and not rest)):
        blocks[-1:] = [blocks[-1] - 1, 1]
    x, first = p.initial(), 0
    for size in blocks:
        s, t, inner = times[first], times[first + size], times[first : first + size]
        first += size
        tableau = one_stage()
        if size > 1:
            start, h = p.half_log_snr(s), p.half_log_snr(t) - p.half_log_snr(s)
            c = [(p.half_log_snr(time) - start) / h for time in inner[1:]]
            two = "heun" if solver_type == "heun" else "midpoint"
            tableau = two_stages(c[0], two) if size == 2 else three_stages(c[0], c[1], solver_type)
        x = p.state(tableau.step(p, x, s, t, prediction, inner, states=True), t)
    return x


@register("res_2s", order=2, evaluations="2", source="Zhang et al. 2023, RES, arXiv 2308.02157")
def res_2s(p: Builder, times: list[float], *, c2: float = 0.5) -> Form:
    """Refined exponential solver, two stages: weights phi_1 - phi_2 / c2 and phi_2 / c2."""
    return exponential_runge_kutta(two_stages(c2), "data")(p, times)


@register("res_3s", order=3, evaluations="3", source="Zhang et al. 2023, RES, arXiv 2308.02157")
def res_3s(p: Builder, times: list[float], *, c2: float = 0.5, c3: float = 1.0) -> Form:
    """Refined exponential solver, three stages, of stiff order three for all nodes, c2 != 2/3.

    b_2 = gamma b_3, b_3 = phi_2 / (gamma c2 + c3), gamma = (3 c3^2 - 2 c3) / (2 c2 - 3 c2^2),
    a_32 = gamma c2 phi_2(c2 z) + (c3^2 / c2) phi_2(c3 z)
    (Hochbruck and Ostermann 2005, SIAM J. Numer. Anal. 43, eq. 5.8).
    """
    if not (0 < c2 <= 1 and 0 < c3 <= 1 and abs(c2 - 2 / 3) > 1e-9):
        raise ValueError(f"c2={c2!r}, c3={c3!r}: expected nodes in (0, 1], c2 other than 2/3")
    gamma = (3 * c3 - 2) * c3 / ((2 - 3 * c2) * c2)

    def stage(z: float) -> tuple[float, ...]:
        return (gamma * c2 / c3 * phi(2, z * c2 / c3) + c3 / c2 * phi(2, z),)

    def result(z: float) -> tuple[float, ...]:
        b3 = phi(2, z) / (gamma * c2 + c3)
        return gamma * b3, b3

    tableau = ExponentialTableau((0.0, c2, c3), (lambda z: (), stage, result))
    return exponential_runge_kutta(tableau, "data")(p, times)


@register("exponential_midpoint", order=2, evaluations="2", source="Friedli 1978")
def exponential_midpoint(p: Builder, times: list[float], *, prediction: str = "data") -> Form:
    """x_t by the prediction at the step's middle in log-SNR alone; dpmpp_2s with r = 1/2."""
    return exponential_runge_kutta(two_stages(0.5, "midpoint"), prediction)(p, times)


@register("exponential_heun", order=2, evaluations="2", source="Cox and Matthews 2002, ETD2RK")
def exponential_heun(p: Builder, times: list[float], *, prediction: str = "data") -> Form:
    """Weights phi_1 - phi_2 and phi_2 for the predictions at both ends; RES 2S with c2 = 1."""
    return exponential_runge_kutta(two_stages(1.0), prediction)(p, times)


@register("exponential_ralston", order=2, evaluations="2", source="Hochbruck and Ostermann 2010")
def exponential_ralston(p: Builder, times: list[float], *, prediction: str = "data") -> Form:
    """Weights phi_1 - 3/2 phi_2 and 3/2 phi_2, the second node at 2/3; RES 2S with c2 = 2/3."""
    return exponential_runge_kutta(two_stages(2 / 3), prediction)(p, times)


ETD3RK = ExponentialTableau(
    (0.0, 0.5, 1.0),
    (
        lambda z: (),
        lambda z: (2 * phi(1, z),),
        lambda z: (4 * phi(2, z) - 8 * phi(3, z), 4 * phi(3, z) - phi(2, z)),
    ),
)
ETD4RK = ExponentialTableau(
    (0.0, 0.5, 0.5, 1.0),
    (
        lambda z: (),
        lambda z: (2 * phi(2, z),),
        lambda z: (0.0, 2 * phi(2, z)),
        lambda z: (*[2 * phi(2, z) - 4 * phi(3, z)] * 2, 4 * phi(3, z) - phi(2, z)),
    ),
)


@register("exponential_rk3", order=3, evaluations="3", source="Cox and Matthews 2002, ETD3RK")
def exponential_rk3(p: Builder, times: list[float], *, prediction: str = "data") -> Form:
    """b = phi_1 - 3 phi_2 + 4 phi_3, 4 phi_2 - 8 phi_3, 4 phi_3 - phi_2: Kutta's as h -> 0."""
    return exponential_runge_kutta(ETD3RK, prediction)(p, times)


@register("exponential_rk4", order=4, evaluations="4", source="Krogstad 2005, ETD4RK-B")
def exponential_rk4(p: Builder, times: list[float], *, prediction: str = "data") -> Form:
    """b = phi_1 - 3 phi_2 + 4 phi_3, twice 2 phi_2 - 4 phi_3, 4 phi_3 - phi_2.

    Krogstad 2005, J. Comput. Phys. 203, a_32 = phi_2(z / 2), a_43 = 2 phi_2(z).
    """
    return exponential_runge_kutta(ETD4RK, prediction)(p, times)
