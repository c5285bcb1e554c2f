"""Linear multistep solvers: polynomials through past predictions, integrated exactly.

They differ in the prediction (data or noise; `adams` has velocities), in the variable of the
polynomial (t, sigma / alpha or log-SNR) and in what they do before the history is there. Started
with a first-order step, a method of order 3 or more keeps that step's error of O(h^2): its orders
are those after an accurate start, which the starter "corrected" (`history`) is for order 3.
Limits: a past prediction at infinite log-SNR carries no weight in a polynomial in log-SNR; a step
from alpha = 0 or, in log-SNR, to t = 0 is DDIM's.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise

import numpy as np

from fastgen.common.checks import check_choice, check_whole
from fastgen.plans import Builder, Form
from fastgen.plans.builder import Predictions
from fastgen.schedules import DiscreteVP, Schedule
from fastgen.solvers.exponential import exponential_step
from fastgen.solvers.exponential_rk import (
    PREDICTIONS,
    SECOND,
    finite,
    interval,
    lagrange_weights,
    moments,
)
from fastgen.solvers.history import Past, multistep, prediction_mean
from fastgen.solvers.registry import register
from fastgen.solvers.velocity import RK4
from fastgen.solvers.velocity_rk import ratio_combine

PEERS = ("diffusers", "k-diffusion")
# Adams-Bashforth with constant steps, newest first (Liu et al. 2022, arXiv 2202.09778, eq. 12).
CONSTANT_STEP = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def exponential_adams(
    p: Builder,
    x: Form,
    s: float,
    t: float,
    nodes: Past,
    prediction: str,
    rule: str = "exact",
    third: float = 1.0,
) -> Form:
    """x_t = keep x_s + scale sum_j w_j f_j, w_j the integrals of the Lagrange polynomials.

    The polynomials in log-SNR pass through ``nodes``; see `exponential_rk` for keep, scale and
    the rule for two nodes. third multiplies the third moment of three nodes.
    """
    if not finite(p, s, t):
        return first_order(p, x, s, t, dict(nodes)[s], prediction)
    nodes = [node for node in nodes if finite(p, node[0])]
    step, start = interval(p, s, t, prediction), p.half_log_snr(s)
    tau = [(p.half_log_snr(time) - start) / step.h for time, _ in nodes]
    integrals = moments(step.z, len(nodes), rule)
    if len(nodes) == 3:
        integrals[2] *= third
    values = [at.data if prediction == "data" else at.noise for _, at in nodes]
    return step.combine(x, lagrange_weights(tau, integrals), values)


def first_order(
    p: Builder, x: Form, s: float, t: float, at: Predictions, prediction: str = "noise"
) -> Form:
    """The step with a constant prediction, whose limits exist (in data prediction if alpha = 0)."""
    if prediction == "data" or p.alpha(s) == 0:
        return exponential_step(p, x, at.data, s, t)
    return ratio_combine(p, x, s, t, [1.0], [at.noise])


def exponential_multistep(
    p: Builder,
    times: list[float],
    order: int,
    prediction: str,
    solver_type: str,
    lower_order_final: bool = False,
    compat: str | None = None,
    starter: str = "corrected",
) -> Form:
    """Exponential Adams-Bashforth: `exponential_adams` through the last ``order`` predictions."""
    rule = SECOND[check_choice("solver_type", solver_type, list(SECOND))]
    third = 1.0
    if compat is not None:
        check_choice("compat", compat, PEERS)
        third, starter = 0.5, "lower"

    def step(x: Form, s: float, t: float, nodes: Past) -> Form:
        return exponential_adams(p, x, s, t, nodes, prediction, rule, third)

    return multistep(p, times, order, step, prediction_mean, starter, lower_order_final)


@register("dpmpp_3m", order=3, source="Lu et al. 2022, DPM-Solver++, arXiv 2211.01095, app. B")
def dpmpp_3m(
    p: Builder,
    times: list[float],
    *,
    solver_type: str = "midpoint",
    lower_order_final: bool = False,
    compat: str | None = None,
    starter: str = "corrected",
) -> Form:
    """Third-order multistep DPM-Solver++: the quadratic through three data predictions.

    x_t = (sigma_t / sigma_s) x_s + alpha_t h (phi_1 D + phi_2 D' + 2 phi_3 D''), with phi_k at -h.
    D' and D'' are h and h^2 / 2 times the quadratic's derivatives.

    solver_type: second-order step of the start, "midpoint" (`dpmpp_2m`) or "heun" (`res_2m`).
    lower_order_final: the last steps have orders 2 and 1. compat: "diffusers" or "k-diffusion",
    which are the same here, and start with lower orders. The code of diffusers, of the authors and
    of k-diffusion's dpmpp_3m_sde has phi_3 in place of 2 phi_3, and thereby order 2. starter: see
    `fastgen.solvers.history`.
    """
    return exponential_multistep(
        p, times, 3, "data", solver_type, lower_order_final, compat, starter
    )


@register("dpm_solver_2m", order=2, source="Lu et al. 2022, arXiv 2206.00927; DPM-Solver's code")
def dpm_solver_2m(
    p: Builder,
    times: list[float],
    *,
    solver_type: str = "midpoint",
    lower_order_final: bool = False,
    starter: str = "lower",
) -> Form:
    """Second-order multistep DPM-Solver: `dpmpp_2m` in noise prediction.

    x_t = (alpha_t / alpha_s) x_s - sigma_t h [phi_1 eps + w (h / h_last) (eps - eps_last)],
    w = phi_1 / 2 ("midpoint") or phi_2 ("heun"), at h.
    """
    return exponential_multistep(
        p, times, 2, "noise", solver_type, lower_order_final, starter=starter
    )


@register("dpm_solver_3m", order=3, source="Lu et al. 2022, arXiv 2206.00927; DPM-Solver's code")
def dpm_solver_3m(
    p: Builder,
    times: list[float],
    *,
    solver_type: str = "midpoint",
    lower_order_final: bool = False,
    compat: str | None = None,
    starter: str = "corrected",
) -> Form:
    """Third-order multistep DPM-Solver: `dpmpp_3m` in noise prediction."""
    return exponential_multistep(
        p, times, 3, "noise", solver_type, lower_order_final, compat, starter
    )


@register("res_2m", order=2, source="Zhang et al. 2023, RES, arXiv 2308.02157")
def res_2m(p: Builder, times: list[float], *, starter: str = "lower") -> Form:
    """x_t = (sigma_t / sigma_s) x_s + alpha_t h [phi_1 D + phi_2 (h / h_last) (D - D_last)].

    phi_k at -h; `dpmpp_2m` has phi_1 / 2 in place of phi_2.
    """
    return exponential_multistep(p, times, 2, "data", "heun", starter=starter)


@register("res_3m", order=3, source="Zhang et al. 2023, RES, arXiv 2308.02157")
def res_3m(p: Builder, times: list[float], *, starter: str = "corrected") -> Form:
    """The quadratic through three data predictions, integrated exactly; `dpmpp_3m`, "heun"."""
    return exponential_multistep(p, times, 3, "data", "heun", starter=starter)


@register("unipc", order=3, source="Zhao et al. 2023, UniPC, arXiv 2302.04867, Alg. 1")
def unipc(
    p: Builder,
    times: list[float],
    *,
    order: int = 2,
    variant: str = "bh2",
    prediction: str = "data",
    corrector: bool = True,
    lower_order_final: bool = False,
) -> Form:
    """Exponential Adams predictor and corrector that share each evaluation.

    Predictor UniP-p: `exponential_adams` through the last p predictions. Corrector UniC-p, of
    order p + 1: the same step again, now also through the prediction at its end. That prediction
    was evaluated at the predicted state and serves the next step too.

    p + 1 evaluations determine the weights, and B(h) cancels. It is left where a single difference
    is weighted, by B(h) / 2: in UniP-2 and UniC-1. ``variant`` says what it is there: h ("bh1"),
    e^h - 1 ("bh2"; UniP-2 is then DPM-Solver++ (2M)), or what makes the weight exact
    ("vary_coeff"). "bh1" overshoots in long steps: in 5 steps on Karras' grid its rms error is 2.1
    on the 64-dimensional mixture of the benchmarks, that of "bh2" 0.57.

    The first p - 1 steps have lower orders, with lower_order_final the last ones as well. From
    alpha = 0, where log-SNR is infinite, the corrector is the trapezoidal rule in alpha / sigma.
    """
    check_whole("order", order, 1, 8)
    check_choice("prediction", prediction, PREDICTIONS)
    rule = {"vary_coeff": "exact"}.get(
        check_choice("variant", variant, ("bh1", "bh2", "vary_coeff")), variant
    )
    x = predicted = p.initial()
    past, used, last = Past(), Past(), math.nan
    for i, (s, t) in enumerate(pairwise(times)):
        past.append((s, p.predict(predicted, s)))
        if corrector and used and finite(p, last):
            nodes = [*used, past[-1]]
            x = p.state(exponential_adams(p, x, last, s, nodes, prediction, rule), s)
        elif corrector and used:
            x = p.state(prediction_mean(p, x, last, s, used[-1][1], past[-1][1]), s)
        elif used:
            x = p.state(predicted, s)
        count = min(order, len(times) - 1 - i) if lower_order_final else order
        used, last = past[-count:], s
        predicted = exponential_adams(p, x, s, t, used, prediction, rule)
    return p.state(predicted, times[-1])


@register("deis", order=2, source="Zhang and Chen 2022, DEIS, arXiv 2204.13902, eq. 15")
def deis(
    p: Builder,
    times: list[float],
    *,
    order: int = 2,
    variable: str = "t",
    lower_order_final: bool = False,
    starter: str = "corrected",
) -> Form:
    """x_t = (alpha_t / alpha_s) x_s + alpha_t sum_j eps_j int_s^t L_j d(sigma / alpha).

    L_j: Lagrange polynomials through the last ``order`` noise predictions, in t ("t": the
    paper's tAB of degree order - 1), in sigma / alpha ("rho": rhoAB) or in its logarithm
    ("log_rho": diffusers' DEIS; `dpm_solver_2m` or 3m with exact weights).
    """
    check_whole("order", order, 1, 8)
    if check_choice("variable", variable, ("t", "rho", "log_rho")) == "log_rho":
        return exponential_multistep(
            p, times, order, "noise", "heun", lower_order_final, starter=starter
        )
    ratio = p.schedule.ratio

    def step(x: Form, s: float, t: float, nodes: Past) -> Form:
        if not finite(p, s):
            return first_order(p, x, s, t, dict(nodes)[s])
        nodes = [node for node in nodes if finite(p, node[0])]
        if variable == "rho":
            start, span = ratio(s), ratio(t) - ratio(s)
            tau = [(ratio(time) - start) / span for time, _ in nodes]
            integrals = [1 / (k + 1) for k in range(len(nodes))]
        else:
            tau = [(time - s) / (t - s) for time, _ in nodes]
            integrals = time_moments(p.schedule, s, t, len(nodes))
        weights = lagrange_weights(tau, integrals)
        return ratio_combine(p, x, s, t, weights, [at.noise for _, at in nodes])

    return multistep(p, times, order, step, prediction_mean, starter, lower_order_final)


def time_moments(schedule: Schedule, s: float, t: float, count: int) -> list[float]:
    """Means of ((time - s) / (t - s))^k over r = sigma / alpha from r(s) to r(t), k < count.

    By parts int k tau^{k-1} (r_t - r) d tau, with tau = 1 - u^2 as r ~ sqrt(t) near t = 0;
    Gauss-Legendre on panels that are halved until nothing changes, and that end at the knots of
    a discrete schedule.
    """
    edges = np.array([0.0, 1.0])
    if isinstance(schedule, DiscreteVP):
        n = schedule.num_steps
        knots = np.arange(math.floor(t * n) + 1, math.ceil(s * n)) / n
        edges = np.unique(np.concatenate([edges, np.sqrt((knots - t) / (s - t))]))
    x, w = np.polynomial.legendre.leggauss(16)
    end, start = schedule.ratio(t), schedule.ratio(s)
    k = np.arange(1, count)[:, None]
    result = np.full(count, np.inf)
    while True:
        half = np.diff(edges)[:, None] / 2
        u = (edges[:-1, None] + half * (1 + x)).ravel()
        left = (end - schedule.ratio(np.clip(s + (t - s) * (1 - u**2), t, s))) / (end - start)
        integrand = k * (1 - u**2) ** (k - 1) * left * 2 * u
        new = np.array([1.0, *(integrand @ (half * w).ravel())])
        if np.allclose(new, result, rtol=1e-14, atol=1e-15) or len(edges) > 4096:
            return [float(value) for value in new]
        result, edges = new, np.sort(np.concatenate([edges, (edges[:-1] + edges[1:]) / 2]))


@register("lms", order=3, source="Crowson 2022, k-diffusion (sample_lms); variable-step Adams")
def lms(p: Builder, times: list[float], *, order: int = 4, starter: str = "corrected") -> Form:
    """Variable-step Adams-Bashforth on d(x / alpha) / d(sigma / alpha) = eps: `deis`, "rho"."""
    return deis.build(p, times, order=order, variable="rho", starter=starter)


@register("ipndm_v", order=3, source="Zhang and Chen 2022, arXiv 2204.13902, app. H; diff-sampler")
def ipndm_v(p: Builder, times: list[float], *, order: int = 4, starter: str = "corrected") -> Form:
    """iPNDM with the weights of the grid's own steps in sigma / alpha, orders 1 to 4: `lms`.

    diff-sampler's and ComfyUI's formula for order 3 has 1 - h B / (3 (h + h_1)) in place of
    (1 - h / (3 (h + h_1))) B, B = h (h + h_1) / (h_1 (h_1 + h_2)); on uneven grids it does not
    integrate linear functions. These are the integrals.
    """
    check_whole("order", order, 1, 4)
    return deis.build(p, times, order=order, variable="rho", starter=starter)


def constant_step(past: list[Form]) -> tuple[list[float], list[Form]]:
    """Constant-step Adams-Bashforth weights for up to four noise predictions, newest last."""
    values = past[-4:][::-1]
    return list(CONSTANT_STEP[len(values) - 1]), values


@register("ipndm", order=2, source="Zhang and Chen 2022, DEIS, arXiv 2204.13902, app. H")
def ipndm(p: Builder, times: list[float], *, order: int = 4) -> Form:
    """PNDM started with lower orders instead of Runge-Kutta steps: one evaluation per step.

    y_t = y_s + (r_t - r_s) sum_j b_j eps_j, y = x / alpha, r = sigma / alpha, with the constant
    weights b of even steps; where these are not even in r only the second order is left.
    """
    check_whole("order", order, 1, 4)

    def step(x: Form, s: float, t: float, nodes: Past) -> Form:
        if not finite(p, s):
            return first_order(p, x, s, t, dict(nodes)[s])
        return ratio_combine(p, x, s, t, *constant_step([at.noise for _, at in nodes]))

    return multistep(p, times, order, step)


@register("pndm", order=2, evaluations="1 (4 in the first 3 steps)", source="arXiv 2202.09778")
def pndm(p: Builder, times: list[float], *, skip_prk: bool = False) -> Form:
    """Pseudo numerical methods (Liu et al. 2022, arXiv 2202.09778, Alg. 2): S-PNDM and F-PNDM.

    Three pseudo Runge-Kutta steps, eps = (e_1 + 2 e_2 + 2 e_3 + e_4) / 6 with e_2 and e_3 at
    (s + t) / 2, then linear multistep steps as `ipndm`. skip_prk: PLMS as in latent diffusion
    (Rombach et al. 2022, arXiv 2112.10752), one step with the mean of eps at both ends, then
    the orders 2, 3 and 4. A start step to t = 0 is DDIM's.
    """
    x, past = p.initial(), deque[Form](maxlen=4)
    for i, (s, t) in enumerate(pairwise(times)):
        past.append(p.epsilon(x, s))
        started = i >= (1 if skip_prk else 3)
        if not finite(p, s) or not (started or finite(p, t)):
            step = exponential_step(p, x, p.denoise(x, s), s, t)
        elif started:
            step = ratio_combine(p, x, s, t, *constant_step(list(past)))
        else:
            values, middle = [past[-1]], (s + t) / 2
            nodes = [t] if skip_prk else [middle, middle, t]
            for node in nodes:
                point = ratio_combine(p, x, s, node, [1.0], values[-1:])
                values.append(p.epsilon(point, node))
            weights = [1 / 2, 1 / 2] if skip_prk else list(RK4.b)
            step = ratio_combine(p, x, s, t, weights, values)
        x = p.state(step, t)
    return x
