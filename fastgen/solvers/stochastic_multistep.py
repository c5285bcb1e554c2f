"""Multistep solvers of the reverse SDE: DPM-Solver++ 2M/3M SDE, ER-SDE and SA-Solver.

All take the exact step of `fastgen.solvers.stochastic` with a data prediction that is a polynomial
through earlier ones. A step that is infinitely long in lambda (from alpha = 0, to t = 0) is of
first order; an earlier prediction infinitely far away in lambda has no weight.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from math import exp, expm1, inf, isfinite, log

import numpy as np

from fastgen.common.checks import check_choice, check_nonnegative, check_whole
from fastgen.plans import Builder, Form
from fastgen.solvers import exponential_rk
from fastgen.solvers.registry import register
from fastgen.solvers.stochastic import (
    constant_decay,
    first_order_only,
    fresh_noise,
    length,
    noise_std,
    sde_mean,
    sde_step,
)


def moments(z: float, count: int) -> list[float]:
    """M_k = integral over [0, 1] of z e^{-z (1 - u)} u^k du, k < count: z k! phi_{k+1}(-z)."""
    if z == inf:
        return [1.0] * count
    return [z * moment for moment in exponential_rk.moments(-z, count)]


@register(
    "dpmpp_2m_sde",
    order=2,
    stochastic=True,
    source="Crowson 2022, k-diffusion (sample_dpmpp_2m_sde); Lu et al. 2022, arXiv 2211.01095",
)
def dpmpp_2m_sde(
    p: Builder,
    times: list[float],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver_type: str = "midpoint",
) -> Form:
    """Two-step stochastic DPM-Solver++ with tau^2 = eta.

    The exact step with D_s plus alpha_t w (h / h_last) (D_s - D_last): w = M_1, exact for D linear
    in lambda ("heun"), or w = M_0 / 2 ("midpoint"), M_k at (1 + eta) h. eta = 0 is dpmpp_2m.
    """
    check_nonnegative("eta", eta)
    check_nonnegative("s_noise", s_noise)
    if solver_type not in ("midpoint", "heun"):
        raise ValueError(f"solver_type={solver_type!r}: expected 'midpoint' or 'heun'")
    x, older, h_last = p.initial(), None, 0.0
    for s, t in pairwise(times):
        h = length(p, s, t)
        d = p.denoise(x, s)
        step = sde_step(p, x, d, s, t, constant_decay(h, eta), s_noise)
        if older is not None and not first_order_only(p, s, t):
            flat, linear = moments((1 + eta) * h, 2)
            weight = linear if solver_type == "heun" else flat / 2
            step = step + (p.alpha(t) * weight * h / h_last) * (d - older)
        x = p.state(step, t)
        older, h_last = d, h
    return x


@register(
    "dpmpp_3m_sde",
    order=2,
    stochastic=True,
    source="Crowson 2023, k-diffusion (sample_dpmpp_3m_sde)",
)
def dpmpp_3m_sde(
    p: Builder,
    times: list[float],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    compat: str | None = None,
) -> Form:
    """Three-step stochastic DPM-Solver++ with tau^2 = eta: D quadratic in lambda, weights exact.

    compat="k_diffusion" halves the weight of the second divided difference as k-diffusion does,
    where M_2 / 2 multiplies it as if it were a second derivative; with eta = 0 the order is then
    2 instead of 3.
    """
    check_nonnegative("eta", eta)
    check_nonnegative("s_noise", s_noise)
    if compat not in (None, "k_diffusion"):
        raise ValueError(f"compat={compat!r}: expected None or 'k_diffusion'")
    x = p.initial()
    past: deque[tuple[float, Form]] = deque(maxlen=3)
    for s, t in pairwise(times):
        h = length(p, s, t)
        past.appendleft((p.half_log_snr(s), p.denoise(x, s)))
        step = sde_step(p, x, past[0][1], s, t, constant_decay(h, eta), s_noise)
        if not first_order_only(p, s, t):
            weight = moments((1 + eta) * h, 3)
            if compat and len(past) == 3:
                weight[2] /= 2
                (l0, d0), (l1, d1), (l2, d2) = past
                slope = (h / (l0 - l1)) * (d0 - d1)
                bend = h / (l0 - l2) * (slope - (h / (l1 - l2)) * (d1 - d2))
                change = weight[1] * (slope + (l0 - l1) / h * bend) + weight[2] * bend
            else:
                change = correction(past, h, weight)
            step = step + p.alpha(t) * change
        x = p.state(step, t)
    return x


def correction(past: Sequence[tuple[float, Form]], h: float, weight: Sequence[float]) -> Form:
    """Integral of the polynomial through the predictions ``past``, less its value at the first.

    past: (lambda, prediction), the first at u = 0 of u = (lambda - lambda_0) / h; weight: the
    integrals of u^k against the kernel. Predictions at lambda = -infinity are left out.
    """
    finite = [(node, d) for node, d in past if isfinite(node)]
    nodes = [(node - finite[0][0]) / h for node, _ in finite]
    weights = exponential_rk.lagrange_weights(nodes, weight[: len(nodes)])
    later = zip(weights[1:], finite[1:], strict=True)
    return sum((w * (d - finite[0][1]) for w, (_, d) in later), Form({}))


LOG_SCALES: dict[str, Callable[[float], float]] = {
    # log of phi(r) / r, the noise scale functions of the paper, finite wherever r is
    "er": lambda r: float(np.logaddexp(r**0.3, log(10))),
    "sde": lambda r: log(r) if r > 0 else -inf,
    "ode": lambda r: 0.0,
}


@cache
def gauss_legendre() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the 32-point rule on [-1, 1]."""
    return np.polynomial.legendre.leggauss(32)


def _er_sde(
    p: Builder,
    times: list[float],
    order: int,
    noise_scale: str | Callable[[float], float],
    s_noise: float,
) -> Form:
    check_nonnegative("s_noise", s_noise)
    log_scale = _log_scale(noise_scale)
    x, past = p.initial(), deque[tuple[float, Form, Form]](maxlen=2)
    for s, t in pairwise(times):
        r_s, r_t = p.schedule.ratio(s), p.schedule.ratio(t)
        m = log_scale(r_s) - log_scale(r_t) if log_scale(r_s) != log_scale(r_t) else 0.0
        if not m >= 0:
            raise ValueError(f"noise_scale: phi(r) / r falls from r = {r_t:.6g} to {r_s:.6g}")
        d = p.denoise(x, s)
        step, slope = sde_step(p, x, d, s, t, m, s_noise), Form({})
        if past and isfinite(past[0][0]):
            slope = (d - past[0][1]) / (r_s - past[0][0])
        if order > 1 and past and not first_order_only(p, s, t):
            flat, linear = er_integrals(log_scale, r_s, r_t)
            step = step + (p.alpha(t) * (r_t - r_s + flat)) * slope
            if order > 2 and len(past) == 2 and isfinite(past[1][0]):
                bend = (slope - past[0][2]) * (2 / (r_s - past[1][0]))
                step = step + (p.alpha(t) * ((r_t - r_s) ** 2 / 2 + linear)) * bend
        x = p.state(step, t)
        past.appendleft((r_s, d, slope))
    return x


def _log_scale(noise_scale: str | Callable[[float], float]) -> Callable[[float], float]:
    if callable(noise_scale):
        function = noise_scale
        return lambda r: log(function(r)) if function(r) > 0 else -inf
    return LOG_SCALES[check_choice("noise_scale", noise_scale, LOG_SCALES)]


def er_integrals(
    log_scale: Callable[[float], float], r_s: float, r_t: float
) -> tuple[float, float]:
    """phi(r_t) times the integrals over r from r_t to r_s of 1 / phi and of (r - r_s) / phi.

    By 32-point Gauss-Legendre quadrature in log r (the authors use 200 rectangles in r).
    """
    width = log(r_s / r_t) / 2
    nodes, weights = gauss_legendre()
    r = r_t * np.exp(width * (1 + nodes))
    inverse = np.array([exp(log_scale(r_t) - log_scale(float(v))) for v in r])
    weights = weights * width * r_t * inverse
    return float(weights.sum()), float(np.dot(weights, r - r_s))


ER_SDE = "Cui et al. 2023, arXiv 2309.06169"


@register("er_sde_1", order=1, stochastic=True, source=ER_SDE)
def er_sde_1(
    p: Builder,
    times: list[float],
    *,
    noise_scale: str | Callable[[float], float] = "er",
    s_noise: float = 1.0,
) -> Form:
    """Extended reverse-time SDE, first order: the exact step for a constant data prediction.

    In X = x / alpha and r = sigma / alpha: X_t = (phi_t / phi_s) X_s + (1 - phi_t / phi_s) D +
    sqrt(r_t^2 - r_s^2 (phi_t / phi_s)^2) z. noise_scale: "er" (the paper's best, phi(r) =
    r (exp(r^0.3) + 10)), "sde" (r^2), "ode" (r), or a function of r that gives phi(r) / r > 0,
    which must not fall and is asked for r = infinity where alpha_s = 0. It is the exact step of
    `fastgen.solvers.stochastic` with e^{-m} = (phi_t / r_t) / (phi_s / r_s).
    """
    return _er_sde(p, times, 1, noise_scale, s_noise)


@register("er_sde_2", order=2, stochastic=True, source=ER_SDE)
def er_sde_2(
    p: Builder,
    times: list[float],
    *,
    noise_scale: str | Callable[[float], float] = "er",
    s_noise: float = 1.0,
) -> Form:
    """Extended reverse-time SDE, second order: D linear in r.

    `er_sde_1` plus alpha_t (r_t - r_s + phi_t int_t^s dr / phi) D', with
    D' = (D_s - D_last) / (r_s - r_last).
    """
    return _er_sde(p, times, 2, noise_scale, s_noise)


@register("er_sde_3", order=2, stochastic=True, source=ER_SDE)
def er_sde_3(
    p: Builder,
    times: list[float],
    *,
    noise_scale: str | Callable[[float], float] = "er",
    s_noise: float = 1.0,
) -> Form:
    """Extended reverse-time SDE with a second derivative of D.

    `er_sde_2` plus alpha_t ((r_t - r_s)^2 / 2 + phi_t int_t^s (r - r_s) dr / phi) D'', with
    D'' = 2 (D' - D'_last) / (r_s - r_last_but_one). D' is not corrected for D'', so the order
    is 2 although the paper calls it 3.
    """
    return _er_sde(p, times, 3, noise_scale, s_noise)


@register(
    "sa_solver",
    order=2,
    evaluations='1 (mode="PEC") or 2 (mode="PECE")',
    stochastic=True,
    source="Xue et al. 2023, arXiv 2309.05019",
)
def sa_solver(
    p: Builder,
    times: list[float],
    *,
    predictor_order: int = 2,
    corrector_order: int = 2,
    tau: float | Callable[[float], float] = 1.0,
    tau_interval: tuple[float, float] = (0.0, 1.0),
    mode: str = "PEC",
    lower_order_final: bool = False,
    compat: str | None = None,
) -> Form:
    """Stochastic Adams: exponential Adams-Bashforth predictor, Adams-Moulton corrector.

    The predictor is the exact step with D the polynomial through the last ``predictor_order``
    predictions. The corrector is the same step with the same noise, and D through
    ``corrector_order`` predictions, the newest at t. The last state is not corrected, and with
    corrector_order=0 no state is.

    tau: of the module's reverse process, in steps that start within ``tau_interval`` (of times), 0
    elsewhere. It may be a function of time; a step takes its value at the step's start. mode: the
    prediction at the predicted state stays in the history ("PEC"), or one at the corrected state
    takes its place ("PECE"). lower_order_final: orders fall to 1 towards the last step.
    compat="diffusers": formulas of order 2 have the leading term (1 + tau^2) h/2 for M_1 of
    `moments`, as the authors' code and diffusers do.
    """
    _check_sa(predictor_order, corrector_order, mode, compat)
    rate_at: Callable[[float], float] = tau if callable(tau) else lambda _: tau
    x, mean, noise, h_last, tau_last = p.initial(), Form({}), Form({}), 0.0, 0.0
    past: deque[tuple[float, Form]] = deque(maxlen=max(predictor_order, corrector_order, 1))
    steps = len(times) - 1

    def change(nodes: list[tuple[float, Form]], rate: float, h: float) -> Form:
        weight = moments(rate * h, len(nodes))
        if compat and len(nodes) == 2:
            weight[1] = rate * h / 2
        return correction(nodes, h, weight)

    for i, (s, t) in enumerate(pairwise(times)):
        d = p.denoise(x, s)
        order = min(corrector_order, i + 1)
        if lower_order_final:
            order = min(order, steps - i + 2)
        if order and i and isfinite(h_last):
            nodes = [past[0], (p.half_log_snr(s), d), *list(past)[1:]][:order]
            if order == 1:  # implicit: D at the end of the step only
                shift = -expm1(-(1 + tau_last**2) * h_last) * (d - past[0][1])
            else:
                shift = change(nodes, 1 + tau_last**2, h_last)
            x = p.let(mean + p.alpha(s) * shift + noise)
            d = p.denoise(x, s) if mode == "PECE" else d
        past.appendleft((p.half_log_snr(s), d))
        h = length(p, s, t)
        tau_here = rate_at(s) if tau_interval[0] <= s <= tau_interval[1] else 0.0
        check_nonnegative("tau", tau_here)
        m = constant_decay(h, tau_here**2)
        mean, noise = sde_mean(p, x, d, s, t, m), fresh_noise(p, s, t, noise_std(p, t, m))
        order = min(predictor_order, i + 1, steps - i if lower_order_final else predictor_order)
        step = mean + noise
        if not first_order_only(p, s, t) and order > 1:
            step = step + p.alpha(t) * change(list(past)[:order], 1 + tau_here**2, h)
        x, h_last, tau_last = p.state(step, t), h, tau_here
    return x


def _check_sa(predictor_order: int, corrector_order: int, mode: str, compat: str | None) -> None:
    check_whole("predictor_order", predictor_order, 1, 4)
    check_whole("corrector_order", corrector_order, 0, 4)
    check_choice("mode", mode, ("PEC", "PECE"))
    if compat not in (None, "diffusers"):
        raise ValueError(f"compat={compat!r}: expected None or 'diffusers'")
