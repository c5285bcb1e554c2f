"""The processes, time grids and step of EDM's ablations, with float64 numbers.

A process is x = s(t) (data + sigma(t) noise); its probability flow is

    dx/dt = (sigma'/sigma + s'/s) x - (sigma' s / sigma) D(x / s; sigma)

(Karras et al. 2022, arXiv 2206.00364, eq. 81). The plan's state is y = x / s, on which networks
are called, so it is the same process with alpha = 1 whatever s is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fastgen.plans import Builder, Form
from fastgen.solvers.stochastic import renoise

SCHEDULES = ("linear", "vp", "ve")
SCALINGS = ("none", "vp")
DISCRETIZATIONS = ("edm", "vp", "ve", "iddpm")
VP_BETAS = 19.1, 0.1  # of the paper's default range of noise levels


def vp_sigma(beta_d: float, beta_min: float, t: float) -> float:
    """sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1)."""
    return math.sqrt(math.expm1(beta_d * t * t / 2 + beta_min * t))


def vp_betas(sigma_min: float, sigma_max: float, epsilon: float) -> tuple[float, float]:
    """(beta_d, beta_min) with sigma(1) = sigma_max and sigma(epsilon) = sigma_min."""
    low, high = math.log1p(sigma_min**2), math.log1p(sigma_max**2)
    beta_d = 2 * (low / epsilon - high) / (epsilon - 1)
    return beta_d, high - beta_d / 2


@dataclass(frozen=True)
class Process:
    """sigma(t): t ("linear"), VP's or sqrt(t) ("ve"); s(t): 1 ("none") or 1 / sqrt(sigma^2 + 1)."""

    schedule: str
    scaling: str
    betas: tuple[float, float]

    def sigma(self, t: float) -> float:
        """The noise level."""
        if self.schedule == "vp":
            return vp_sigma(*self.betas, t)
        return t if self.schedule == "linear" else math.sqrt(t)

    def d_sigma(self, t: float) -> float:
        """Its derivative; t > 0."""
        if self.schedule == "vp":
            beta_d, beta_min = self.betas
            sigma = self.sigma(t)
            return (beta_min + beta_d * t) * (sigma + 1 / sigma) / 2
        return 1.0 if self.schedule == "linear" else 0.5 / math.sqrt(t)

    def time(self, sigma: float) -> float:
        """The time of a noise level."""
        if self.schedule == "vp":
            beta_d, beta_min = self.betas
            return (math.sqrt(beta_min**2 + 2 * beta_d * math.log1p(sigma**2)) - beta_min) / beta_d
        return sigma if self.schedule == "linear" else sigma**2

    def scale(self, t: float) -> float:
        """s(t)."""
        return 1.0 if self.scaling == "none" else 1 / math.sqrt(1 + self.sigma(t) ** 2)

    def d_scale(self, t: float) -> float:
        """s'(t)."""
        if self.scaling == "none":
            return 0.0
        return -self.sigma(t) * self.d_sigma(t) * self.scale(t) ** 3


def sigma_steps(
    discretization: str,
    steps: int,
    sigma_min: float,
    sigma_max: float,
    rho: float,
    epsilon: float,
    c_1: float,
    c_2: float,
    m: int,
) -> list[float]:
    """The noise levels of the paper's table 1 from sigma_max down, without the last one of 0.

    Raises:
        ValueError: if iDDPM's chain of m levels has none in the range.
    """
    fractions = [i / max(steps - 1, 1) for i in range(steps)]
    if discretization == "edm":
        high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
        return [(high + f * (low - high)) ** rho for f in fractions]
    if discretization == "vp":
        betas = vp_betas(sigma_min, sigma_max, epsilon)
        return [vp_sigma(*betas, 1 + f * (epsilon - 1)) for f in fractions]
    if discretization == "ve":
        return [sigma_max * (sigma_min / sigma_max) ** f for f in fractions]
    alpha_bar = np.sin(0.5 * np.pi * np.arange(m + 1) / m / (c_2 + 1)) ** 2
    u = np.zeros(m + 1)
    for j in range(m, 0, -1):
        kept = max(alpha_bar[j - 1] / alpha_bar[j], c_1)
        u[j - 1] = math.sqrt((u[j] ** 2 + 1) / kept - 1)
    inside = u[(u >= sigma_min) & (u <= sigma_max)]
    if not len(inside):
        raise ValueError(
            f"sigma_min={sigma_min!r}, sigma_max={sigma_max!r}: none of the M={m} levels of "
            "discretization='iddpm' lies between them"
        )
    return [float(inside[round((len(inside) - 1) * f)]) for f in fractions]


def heun(
    p: Builder,
    levels: list[float],
    *,
    process: Process,
    times: tuple[float, ...],
    churned: tuple[float, ...],
    euler: bool,
    alpha: float,
    s_noise: float,
) -> Form:
    """Alg. 2 and its generalisation to any process and alpha (app. D.2 there).

    levels: the plan's times; times: t of the process at each step, the last 0; churned: t to
    which each step goes up first. With d the right-hand side at (x, t), h the step and
    x' = x + alpha h d at t' = t + alpha h: x + h ((1 - 1/(2 alpha)) d + d'/(2 alpha)).
    """
    y = p.initial()
    at: Callable[[float], float] = p.schedule.time_at_ratio
    for i, (s, t) in enumerate(pairwise(levels)):
        start, end = churned[i], times[i + 1]
        if start != times[i]:
            high = at(process.sigma(start))
            y, s = p.let(renoise(p, y, s, high, s_noise)), high
        h = end - start
        x, d = process.scale(start) * y, slope(p, process, y, s, start)
        if euler or i == len(levels) - 2:
            y = p.state((x + h * d) / process.scale(end), t)
            continue
        later = start + alpha * h
        point = (x + (alpha * h) * d) / process.scale(later)
        node = t if alpha == 1 else at(process.sigma(later))
        d_later = slope(p, process, p.let(point), node, later)
        step = x + (h * (1 - 0.5 / alpha)) * d + (h * 0.5 / alpha) * d_later
        y = p.state(step / process.scale(end), t)
    return y


def slope(p: Builder, process: Process, y: Form, node: float, t: float) -> Form:
    """dx/dt at y = x / s."""
    sigma, s = process.sigma(t), process.scale(t)
    growth = process.d_sigma(t) / sigma
    drift = (growth + process.d_scale(t) / s) * s
    return drift * y - (growth * s) * p.denoise(y, node)
