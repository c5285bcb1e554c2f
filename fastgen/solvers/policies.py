"""Solvers whose steps are the actions of a policy, for reinforcement learning of a flow.

A step draws x_t from a Gaussian around a mean that the network gives, so that it has a density
(`fastgen.trajectory_log_probability`). Mixed ODE-SDE sampling (MixGRPO, Li et al. 2025, arXiv
2507.21802) draws in a window of steps alone, which moves in the course of training: the others are
steps of the flow and have no density. ``window=(first, last)`` are the steps first .. last - 1.

`cps` and `precise` are steps of `fastgen.solvers.stochastic` for a constant data prediction D,

    x_t = alpha_t D + sigma_t (e^{-m} eps + sqrt(1 - e^{-2m}) z),

with eps = (x_s - alpha_s D) / sigma_s, and differ in m alone.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import cos, inf, log, pi

from fastgen.common.checks import check_choice, check_integer, check_nonnegative
from fastgen.plans import Builder, Form
from fastgen.solvers.flow_sdes import LAST_STEPS, euler_maruyama_step
from fastgen.solvers.registry import register
from fastgen.solvers.stochastic import constant_decay, length, sde_step

Window = Sequence[int] | None


def in_window(window: Window, steps: int) -> range:
    """The steps that draw noise.

    Raises:
        ValueError: unless 0 <= first < last <= steps.
    """
    if window is None:
        return range(steps)
    if isinstance(window, (str, bytes)) or not isinstance(window, Sequence) or len(window) != 2:
        raise TypeError(f"window={window!r}: expected (first, last), two numbers of steps")
    first, last = (check_integer("window", n) for n in window)
    if not 0 <= first < last <= steps:
        raise ValueError(
            f"window={window!r}: expected 0 <= first < last <= {steps}, the number of steps"
        )
    return range(first, last)


@register(
    "flow_grpo", order=1, stochastic=True, source="Liu et al. 2025, Flow-GRPO, arXiv 2505.05470"
)
def flow_grpo(
    p: Builder,
    times: list[float],
    *,
    a: float = 0.7,
    last_step: str = "none",
    first_step: str = "limit",
    window: Window = None,
) -> Form:
    """Euler-Maruyama with sigma_t = a sqrt(t / (1 - t)), that is eps = sigma_t^2 / 2.

    x_t = x_s + (t - s) [u + sigma_s^2 / (2 s) (x_s + (1 - s) u)] + sigma_s sqrt(s - t) z on
    rectified flows. On other schedules eps = a^2 g^2 / 4, which on rectified flows is the same.

    sigma_t is infinite at t = 1. first_step "limit" is that of `fastgen.solvers.flow_sde`. "next"
    takes a sqrt(1 / (1 - t_1)) there, with the next time t_1, as the authors' code does (rectified
    flows only). Steps outside of ``window`` are Euler's on the flow.
    """
    check_choice("last_step", last_step, LAST_STEPS)
    check_nonnegative("a", a)
    if first_step not in ("limit", "next"):
        raise ValueError(f"first_step={first_step!r}: expected 'limit' or 'next'")

    def diffusion(t: float) -> float:
        if first_step == "next" and p.alpha(t) == 0:
            return a**2 / 2 / (1 - times[1]) if times[1] > 0 else 0.0
        return a**2 * p.schedule.diffusion_squared(t) / 4 if a else 0.0

    x, noisy = p.initial(), in_window(window, len(times) - 1)
    for i, (s, t) in enumerate(pairwise(times)):
        eps = diffusion(s) if i in noisy else 0.0
        x = p.state(euler_maruyama_step(p, x, s, t, eps, last_step), t)
    return x


@register("cps", order=None, stochastic=True, source="Wang and Yu 2025, arXiv 2509.05952")
def cps(p: Builder, times: list[float], *, eta: float = 0.7, window: Window = None) -> Form:
    """Coefficients-preserving sampling: e^{-m} = cos(eta pi / 2) in every step, however short.

    On rectified flows x_t = (1 - t) D + t cos(eta pi / 2) eps + t sin(eta pi / 2) z. eta in [0, 1];
    0 is DDIM. A step, however short, loses some of what D leaves open of x_0: with k = cos(eta pi /
    2) and more and more steps Gaussian data end with (1 - k) / 2 of their variance missing.
    """
    if check_nonnegative("eta", eta) > 1:
        raise ValueError(f"eta={eta!r}: expected 0 <= eta <= 1")
    kept = cos(eta * pi / 2)
    m = (inf if eta == 1 else -log(kept)) if eta else 0.0
    x, noisy = p.initial(), in_window(window, len(times) - 1)
    for i, (s, t) in enumerate(pairwise(times)):
        d = p.denoise(x, s)
        x = p.state(sde_step(p, x, d, s, t, m if i in noisy else 0.0), t)
    return x


@register("precise", order=1, stochastic=True, source="Zou et al. 2026, arXiv 2605.23522")
def precise(p: Builder, times: list[float], *, eta: float = 1.5, window: Window = None) -> Form:
    """The exact step of the process of `flow_grpo` with a = eta for a constant D: m = eta^2 h / 2.

    On rectified flows e^{-m} = [t (1 - s) / (s (1 - t))]^(eta^2 / 2). It is "seeds_1" of tau^2 =
    eta^2 / 2. Steps outside of ``window`` are DDIM's.
    """
    check_nonnegative("eta", eta)
    x, noisy = p.initial(), in_window(window, len(times) - 1)
    for i, (s, t) in enumerate(pairwise(times)):
        d = p.denoise(x, s)
        m = constant_decay(length(p, s, t), eta**2 / 2) if i in noisy else 0.0
        x = p.state(sde_step(p, x, d, s, t, m), t)
    return x
