"""Runge-Kutta and Adams-Bashforth on the probability-flow velocity, dx/dt = u(x, t).

A step to t = 0 at which the velocity is not to be had (sigma' is infinite there for
variance-preserving processes) is the exponential step, whose limit is the data prediction.
"""

from collections.abc import Callable
from itertools import pairwise
from math import isfinite

from fastgen.common.checks import check_choice
from fastgen.common.tableau import Tableau
from fastgen.plans import Builder, Form
from fastgen.solvers.exponential import exponential_step
from fastgen.solvers.registry import register

EULER = Tableau((0.0,), ((),), (1.0,))
HEUN = Tableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5))
RK4 = Tableau(
    (0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)
)


def runge_kutta(tableau: Tableau) -> Callable[[Builder, list[float]], Form]:
    """The solver x_t = x + h sum_i b_i k_i, k_i = u(x + h sum_j a_ij k_j, s + c_i h), h = t - s."""

    def solve(p: Builder, times: list[float]) -> Form:
        x = p.initial()
        for s, t in pairwise(times):
            if not p.has_velocity(t):
                x = p.state(exponential_step(p, x, p.denoise(x, s), s, t), t)
                continue
            h = t - s
            slopes: list[Form] = []
            for node, row in zip(tableau.c, tableau.a, strict=True):
                point = sum((h * a * k for a, k in zip(row, slopes, strict=True)), x)
                slopes.append(p.velocity(point, t if node == 1 else s + node * h))
            x = p.state(
                sum((h * b * k for b, k in zip(tableau.weights, slopes, strict=True)), x), t
            )
        return x

    return solve


@register("euler", order=1, source="Euler 1768; Lipman et al. 2023, arXiv 2210.02747")
def euler(p: Builder, times: list[float], *, variable: str = "t") -> Form:
    """x_t = x_s + (t - s) u(x_s, s).

    variable: "t", or for y = x / alpha "sigma": dy = eps d(sigma / alpha), which is DDIM, or
    "log_snr": dy = -(sigma / alpha) eps d lambda, lambda = log(alpha / sigma).
    """
    if check_choice("variable", variable, ("t", "sigma", "log_snr")) == "t":
        return runge_kutta(EULER)(p, times)
    x = p.initial()
    for s, t in pairwise(times):
        h = p.half_log_snr(t) - p.half_log_snr(s)
        if variable == "sigma" or not isfinite(h):  # the limit at sigma = 0 and at alpha = 0
            x = p.state(exponential_step(p, x, p.denoise(x, s), s, t), t)
        else:
            kept = p.alpha(t) / p.alpha(s)
            x = p.state(kept * x + (-kept * p.sigma(s) * h) * p.epsilon(x, s), t)
    return x


@register("heun", order=2, evaluations="2", source="Karras et al. 2022, arXiv 2206.00364, Alg. 1")
def heun(p: Builder, times: list[float]) -> Form:
    """Trapezoidal rule with an Euler predictor: x_t = x_s + (t - s) (k_1 + k_2) / 2."""
    return runge_kutta(HEUN)(p, times)


@register("rk4", order=4, evaluations="4", source="Kutta 1901")
def rk4(p: Builder, times: list[float]) -> Form:
    """The classical Runge-Kutta method with weights 1/6, 1/3, 1/3, 1/6."""
    return runge_kutta(RK4)(p, times)


@register(
    "mean_flow",
    order=None,
    source="Geng et al. 2025, MeanFlow, arXiv 2505.13447, Alg. 2",
    two_times=True,
)
def mean_flow(p: Builder, times: list[float]) -> Form:
    """Steps with a network of two times: x_t = x_s + (t - s) u(x_s, s, t), u the average velocity.

    Exact in any number of steps if the network is; shortcut models (arXiv 2410.12557) step alike.
    """
    x = p.initial()
    for s, t in pairwise(times):
        x = p.state(x + (t - s) * p.average_velocity(x, s, t), t)
    return x
