"""Samplers of k-diffusion's family that the library's own solvers do not give as they are.

Written for processes with alpha = 1, whose noise level r is sigma itself; see
`fastgen.plans.Builder` for p.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from math import log, sqrt
from typing import Any

import numpy as np
import torch

from fastgen.common.checks import check_nonnegative, check_whole
from fastgen.integrations.common.recipes import Build
from fastgen.plans import Builder, Form
from fastgen.solvers.exponential import exponential_step
from fastgen.solvers.exponential_rk import (
    lagrange_weights,
    moments,
    one_stage,
    three_stages,
    two_stages,
)
from fastgen.solvers.multistep import lms
from fastgen.solvers.stochastic import (
    ancestral_decay,
    churned_time,
    first_order_only,
    fresh_noise,
    length,
    renoise,
    sde_step,
)
from fastgen.solvers.stochastic_multistep import (
    dpmpp_3m_sde,
    er_sde_1,
    er_sde_2,
    er_sde_3,
    sa_solver,
)
from fastgen.solvers.velocity_rk import ratio_combine

ER_SDE = {1: er_sde_1, 2: er_sde_2, 3: er_sde_3}


def denoised_at_zero(build: Build) -> Build:
    """The solver with x = D for a last step to sigma = 0, as ComfyUI ends its multistep ones."""

    def solve(p: Builder, times: list[float], **options: Any) -> Form:
        if times[-1] > 0:
            return build(p, times, **options)
        x = build(p, times[:-1], **options)
        return p.state(p.denoise(x, times[-2]), times[-1])

    return solve


def dpm_fast(
    p: Builder,
    times: list[float],
    *,
    orders: tuple[int, ...],
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Form:
    """DPM-Solver-fast: steps of DPM-Solver-1, -2 and -3 in noise prediction.

    Lu et al. 2022 (arXiv 2206.00927), app. D.3. eta: each step goes to sigma_down, not below the
    last level, and noise of standard deviation sqrt(sigma_t^2 - sigma_down^2) back up.
    """
    check_nonnegative("eta", eta)
    tableaus = {
        1: one_stage(),
        2: two_stages(1 / 2, "midpoint"),
        3: three_stages(1 / 3, 2 / 3, "dpmsolver"),
    }
    x = p.initial()
    for (s, t), order in zip(pairwise(times), orders, strict=True):
        down = t
        if eta:
            m = ancestral_decay(length(p, s, t), eta)
            down = max(p.schedule.time_at_ratio(p.schedule.ratio(t) * np.exp(-m)), times[-1])
        tableau = tableaus[order]
        (nodes,) = tableau.nodes(p, [s, down])
        x = renoise(p, tableau.step(p, x, s, down, "noise", nodes), down, t, s_noise)
        x = p.state(x, t)
    return x


def heunpp2(
    p: Builder,
    times: list[float],
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = float("inf"),
    s_noise: float = 1.0,
) -> Form:
    """Heun++ (`fastgen.solvers.velocity_rk.heunpp2`) from churned levels as in `with_churn`."""
    check_nonnegative("s_churn", s_churn)
    check_nonnegative("s_noise", s_noise)
    gamma = min(s_churn / (len(times) - 1), sqrt(2) - 1)
    x, ratios = p.initial(), [p.schedule.ratio(t) for t in times]
    for i, (s, t) in enumerate(pairwise(times)):
        here = s
        if gamma > 0 and s_tmin <= ratios[i] <= s_tmax:
            here = churned_time(p, ratios[i], (1 + gamma) * ratios[i])
            x = p.let(renoise(p, x, s, here, s_noise))
        ahead = min(3, len(times) - 1 - i)
        later = [ratios[i + k] / (ahead * ratios[0]) for k in range(1, ahead)]
        values, point, at = [p.denoise(x, here)], x, here
        if ahead == 1:
            x = p.state(exponential_step(p, x, values[0], here, t), t)
            continue
        values = [p.epsilon(x, here)]
        for node in times[i + 1 : i + ahead]:
            point = ratio_combine(p, point, at, node, [1.0], values[-1:])
            values.append(p.epsilon(point, node))
            at = node
        x = p.state(ratio_combine(p, x, here, t, [1 - sum(later), *later], values), t)
    return x


def renoised_jumps(p: Builder, times: list[float], *, s_noise: float = 1.0) -> Form:
    """x_t = D + s_noise sigma_t z, for consistency models (Song et al. 2023, arXiv 2303.01469)."""
    check_nonnegative("s_noise", s_noise)
    x = p.initial()
    for s, t in pairwise(times):
        x = p.state(p.denoise(x, s) + fresh_noise(p, s, t, s_noise * p.sigma(t)), t)
    return x


def res_multistep(
    p: Builder, times: list[float], *, eta: float = 0.0, s_noise: float = 1.0
) -> Form:
    """Second-order multistep RES down to sigma_down, then noise back up to sigma_t.

    x_down = e^{-h} x + h [(phi_1 - phi_2 / c) D + (phi_2 / c) D_last], phi_k at -h, h the step in
    log(1 / sigma) and c h the way back from where the last step ended, its own sigma_down, to
    where D_last was taken. Zhang et al. 2023 (arXiv 2308.02157); `res_2m` for eta = 0.
    """
    check_nonnegative("eta", eta)
    check_nonnegative("s_noise", s_noise)
    x, older, back = p.initial(), None, 0.0
    for s, t in pairwise(times):
        m = ancestral_decay(length(p, s, t), eta)
        d = p.denoise(x, s)
        step = sde_step(p, x, d, s, t, m, s_noise)
        if older is not None and not first_order_only(p, s, t) and m < float("inf"):
            h = length(p, s, t) + m
            step = step + (moments(-h, 2)[1] * h * h / back) * (d - older)
        x, older, back = p.state(step, t), d, length(p, s, t) + m
    return x


@cache
def relative_scale(scaler: Callable[[Any], Any]) -> Callable[[float], float]:
    """phi(sigma) / sigma of ER-SDE from phi, which is given tensors without axes."""

    def scale(r: float) -> float:
        r = max(r, 2.0**-100)  # not 0 / 0: a step to data does not depend on it
        return float(scaler(torch.tensor(r, dtype=torch.float64, device="cpu"))) / r

    return scale


def er_sde(p: Builder, times: list[float], *, stage: int, **options: Any) -> Form:
    """ER-SDE of order ``stage``; see `fastgen.solvers.stochastic_multistep`."""
    return ER_SDE[stage].build(p, times, **options)


def sa_solver_between(
    p: Builder, times: list[float], *, tau: float, steps: tuple[int, int], **options: Any
) -> Form:
    """`fastgen.solvers.stochastic_multistep.sa_solver` with noise in steps first .. last."""
    first, last = steps
    interval = (times[last], times[first]) if last >= first else (0.0, 1.0)
    return sa_solver.build(p, times, tau=tau, tau_interval=interval, **options)


def compat_3m_sde(
    p: Builder, times: list[float], *, eta: float = 1.0, s_noise: float = 1.0
) -> Form:
    """`fastgen.solvers.stochastic_multistep.dpmpp_3m_sde` with k-diffusion's last weight."""
    return dpmpp_3m_sde.build(p, times, eta=eta, s_noise=s_noise, compat="k_diffusion")


# The VP process by whose time ComfyUI's DEIS spaces its polynomials.
VP_SIGMA_MIN, VP_SIGMA_MAX, VP_EPSILON = 0.002, 80.0, 1e-3


def vp_time(sigma: np.ndarray) -> np.ndarray:
    """t with sigma^2 = exp(beta_d t^2 / 2 + beta_min t) - 1, sigma(1) = 80, sigma(1e-3) = 0.002.

    Karras et al. 2022 (arXiv 2206.00364), tab. 1.
    """
    low, high = (log(s**2 + 1) for s in (VP_SIGMA_MIN, VP_SIGMA_MAX))
    beta_d = 2 * (low / VP_EPSILON - high) / (VP_EPSILON - 1)
    beta_min = high - beta_d / 2
    square = beta_min**2 + 2 * beta_d * np.log1p(np.asarray(sigma) ** 2)
    result: np.ndarray = (np.sqrt(square) - beta_min) / beta_d
    return result


def deis_tab(p: Builder, times: list[float], *, order: int = 3) -> Form:
    """tAB-DEIS on x with alpha = 1: Lagrange polynomials in the VP process's time.

    x_t = x_s + sum_j eps_j int_s^t L_j(t(sigma)) d sigma over the last ``order`` noise
    predictions (Zhang and Chen 2022, arXiv 2204.13902, eq. 15), the integrals by 48-point
    Gauss-Legendre quadrature in log sigma.
    """
    check_whole("order", order, 1, 4)
    nodes, weights = np.polynomial.legendre.leggauss(48)
    x, past = p.initial(), deque[tuple[float, Form]](maxlen=order)
    for s, t in pairwise(times):
        high, low = p.sigma(s), p.sigma(t)
        start, end = (float(vp_time(np.array(level))) for level in (high, low))
        past.append((start, p.epsilon(x, s)))
        width = log(low / high) / 2
        sigma = high * np.exp(width * (1 + nodes))
        tau = (vp_time(sigma) - start) / (end - start)
        measure = weights * width * sigma / (low - high)  # of the mean over [sigma_t, sigma_s]
        means = [float(np.dot(measure, tau**k)) for k in range(len(past))]
        at = [(time - start) / (end - start) for time, _ in past]
        factors = lagrange_weights(at, means)
        x = p.state(ratio_combine(p, x, s, t, factors, [eps for _, eps in past]), t)
    return x


def deis(p: Builder, times: list[float], *, order: int = 3, mode: str = "tab") -> Form:
    """DEIS with polynomials in the VP process's time ("tab") or in sigma ("rhoab")."""
    if mode == "tab":
        return deis_tab(p, times, order=order)
    return lms.build(p, times, order=order, starter="lower")
