"""Time discretisations of the reverse process with any diffusion: Euler-Maruyama and Heun.

With u = dx/dt of the probability flow, every process

    dx = (u - eps score) dt + sqrt(2 eps) dW,      eps(t) >= 0, dt < 0,

has the marginals of the flow (Song et al. 2021, arXiv 2011.13456; Ma et al. 2024, SiT, arXiv
2401.08740, whose w is 2 eps). u and score come from one evaluation, through the data prediction D:
u = (sigma' / sigma) x + (alpha' - alpha sigma' / sigma) D, score = -(x - alpha D) / sigma^2.

A step from where eps is infinite (g^2 at alpha = 0) draws x_t = alpha_t D + sigma_t z: nothing
survives of x_s but its D. The step to sigma_t = 0 follows ``last_step``:
"mean" leaves the noise out, "tweedie" returns D, "euler" is a step of the flow, "none" is a step
like the others. It is Euler's in any case, as no evaluation is made at sigma = 0.
"""

from collections.abc import Callable
from itertools import pairwise
from math import cos, isfinite, pi, sin, sqrt

from fastgen.common.checks import check_choice, check_nonnegative
from fastgen.plans import Builder, Form
from fastgen.solvers.exponential import ancestral_step
from fastgen.solvers.registry import register
from fastgen.solvers.stochastic import fresh_noise

Diffusion = Callable[[float], float]
LAST_STEPS = ("mean", "tweedie", "euler", "none")
FORMS: dict[str, Callable[[Builder, float, float], float]] = {
    # (p, t, norm) -> eps(t) for this library's time, which has noise at 1
    "constant": lambda p, t, norm: norm,
    "sbdm": lambda p, t, norm: norm * p.schedule.diffusion_squared(t) / 2,
    "sigma": lambda p, t, norm: norm * p.sigma(t),
    "linear": lambda p, t, norm: norm * t,
    "decreasing": lambda p, t, norm: 0.25 * (1 - norm * cos(pi * t)) ** 2,
    "increasing_decreasing": lambda p, t, norm: norm * sin(pi * t) ** 2,
}


def drift(p: Builder, x: Form, t: float, eps: float) -> Form:
    """u - eps score at the register x and time t > 0."""
    alpha, sigma = p.alpha(t), p.sigma(t)
    rate = p.schedule.d_sigma(t) / sigma
    pull = eps / sigma**2
    data = p.denoise(x, t)
    return (rate + pull) * x + (p.schedule.d_alpha(t) - alpha * (rate + pull)) * data


def euler_maruyama_step(
    p: Builder, x: Form, s: float, t: float, eps: float, last_step: str
) -> Form:
    """x_s + (t - s) (u - eps score) + sqrt(2 eps (s - t)) z, and the limits of the module."""
    last = last_step if p.sigma(t) == 0 else "none"
    if last == "tweedie":
        return p.denoise(x, s)
    if last == "euler":
        return x + (t - s) * drift(p, x, s, 0.0)
    if not isfinite(eps):
        return ancestral_step(p, x, p.denoise(x, s), s, t, 1.0)
    mean = x + (t - s) * drift(p, x, s, eps)
    return mean if last == "mean" else mean + fresh_noise(p, s, t, sqrt(2 * eps * (s - t)))


def heun_maruyama_step(
    p: Builder, x: Form, s: float, t: float, eps: float, eps_t: float, last_step: str
) -> Form:
    """Trapezoidal rule for the drift, the noise of mean variance in both of its points.

    N = sqrt((eps_s + eps_t) (s - t)) z, x* = x_s + (t - s) b_s + N,
    x_t = x_s + (t - s) (b_s + b(x*, t)) / 2 + N.
    """
    if p.sigma(t) == 0 or not isfinite(eps):
        return euler_maruyama_step(p, x, s, t, eps, last_step)
    noise = fresh_noise(p, s, t, sqrt((eps + eps_t) * (s - t)))
    first = drift(p, x, s, eps)
    end = p.let(x + (t - s) * first + noise)
    return x + ((t - s) / 2) * (first + drift(p, end, t, eps_t)) + noise


def _solve(
    p: Builder, times: list[float], diffusion: Diffusion, last_step: str, heun: bool
) -> Form:
    check_choice("last_step", last_step, LAST_STEPS)
    x = p.initial()
    for s, t in pairwise(times):
        eps = diffusion(s)
        if not eps >= 0:
            raise ValueError(f"diffusion: {eps!r} at t={s:.6g}; it must not be negative")
        if heun:
            eps_t = diffusion(t) if p.sigma(t) > 0 else 0.0
            x = p.state(heun_maruyama_step(p, x, s, t, eps, eps_t, last_step), t)
        else:
            x = p.state(euler_maruyama_step(p, x, s, t, eps, last_step), t)
    return x


def _form(p: Builder, diffusion: str | Diffusion, norm: float) -> Diffusion:
    check_nonnegative("diffusion_norm", norm)
    if callable(diffusion):
        function = diffusion
        return lambda t: norm * function(t)
    form = FORMS[check_choice("diffusion", diffusion, FORMS)]
    return lambda t: form(p, t, norm) if norm or diffusion == "decreasing" else 0.0


def _reverse(p: Builder, eta: float) -> Diffusion:
    check_nonnegative("eta", eta)
    return lambda t: eta**2 * p.schedule.diffusion_squared(t) / 2 if eta else 0.0


SCORE_SDE = "Song et al. 2021, arXiv 2011.13456"
SIT = "Ma et al. 2024, SiT, arXiv 2401.08740"


@register("euler_maruyama", order=1, stochastic=True, source=SCORE_SDE)
def euler_maruyama(
    p: Builder, times: list[float], *, eta: float = 1.0, last_step: str = "mean"
) -> Form:
    """Euler-Maruyama in t for dx = [f x - (1 + eta^2)/2 g^2 score] dt + eta g dW.

    eta = 1 is the reverse-time SDE of the forward process dx = f x dt + g dW, eta = 0 its
    probability flow. Any schedule; last_step as in the module (the authors' code takes "mean").
    """
    return _solve(p, times, _reverse(p, eta), last_step, heun=False)


@register("stochastic_heun", order=2, evaluations="2", stochastic=True, source=SCORE_SDE)
def stochastic_heun(
    p: Builder, times: list[float], *, eta: float = 1.0, last_step: str = "mean"
) -> Form:
    """Heun's method for the process of `euler_maruyama` (its noise does not depend on x)."""
    return _solve(p, times, _reverse(p, eta), last_step, heun=True)


@register("flow_sde", order=1, stochastic=True, source=SIT)
def flow_sde(
    p: Builder,
    times: list[float],
    *,
    diffusion: str | Diffusion = "sbdm",
    diffusion_norm: float = 1.0,
    last_step: str = "mean",
) -> Form:
    """Euler-Maruyama with a diffusion coefficient eps(t) of one's own choice.

    diffusion, each times n = diffusion_norm: "constant" (1), "sbdm" (g^2 / 2, the reverse SDE's),
    "sigma", "linear" (t), "increasing_decreasing" (sin(pi t)^2); "decreasing" is
    (1 - n cos(pi t))^2 / 4; or a function of t, times n. SiT's time has data at 1.
    """
    return _solve(p, times, _form(p, diffusion, diffusion_norm), last_step, heun=False)


@register("flow_sde_heun", order=2, evaluations="2", stochastic=True, source=SIT)
def flow_sde_heun(
    p: Builder,
    times: list[float],
    *,
    diffusion: str | Diffusion = "sbdm",
    diffusion_norm: float = 1.0,
    last_step: str = "mean",
) -> Form:
    """Heun's method for the process of `flow_sde`.

    SiT's code adds the noise of eps(s) before the step, which is of first order unless eps is
    constant; here it has the mean variance of both ends.
    """
    return _solve(p, times, _form(p, diffusion, diffusion_norm), last_step, heun=True)
