"""Sampling of Schroedinger bridges: a velocity and a score, from a network each."""

from itertools import pairwise
from math import sqrt

from fastgen.common.checks import check_choice, check_nonnegative
from fastgen.plans import Builder, Form
from fastgen.solvers.registry import register
from fastgen.solvers.stochastic import fresh_noise


@register(
    "bridge_sde",
    order=1,
    stochastic=True,
    source="Tong et al. 2023, [SF]2M, arXiv 2307.03672, eq. 5 and Alg. 2",
)
def bridge_sde(
    p: Builder, times: list[float], *, sigma: float = 1.0, last_step: str = "noise"
) -> Form:
    """Euler-Maruyama for dx = (u - sigma^2 / 2 score) dt + sigma dW, dt < 0, sigma constant.

    x_t = x_s + (t - s) (u - sigma^2 / 2 score) + sigma sqrt(s - t) z: the process between any two
    distributions whose marginals are those of the flow of u, if score is theirs; sigma = 0 is
    that flow. Velocity and score are what the network says they are: for networks that predict
    "velocity_and_score" nothing is converted, and the schedule gives no more than the times.
    Pass samples of the source as the initial state. last_step: "noise", like the others, or
    "mean", without noise.
    """
    check_nonnegative("sigma", sigma)
    check_choice("last_step", last_step, ("noise", "mean"))
    x = p.initial()
    for s, t in pairwise(times):
        at = p.predict(x, s)
        x = x + (t - s) * (at.velocity - 0.5 * sigma**2 * at.score)
        if last_step == "noise" or t != times[-1]:
            x = x + fresh_noise(p, s, t, sigma * sqrt(s - t))
        x = p.state(x, t)
    return x
