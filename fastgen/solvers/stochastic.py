"""Single-step solvers of the reverse process that add noise: ancestral, SDE, churn, restart.

With lambda = log(alpha / sigma), h = lambda_t - lambda_s and a constant data prediction D, the
reverse process dx = [f x - (1 + tau^2)/2 g^2 score] dt + tau g dW goes from s to t < s exactly by

    x_t = e^{-m} (sigma_t / sigma_s) x_s + alpha_t (1 - e^{-(h + m)}) D
          + sigma_t sqrt(1 - e^{-2m}) z,      m = integral of tau^2 d lambda over the step

(Xue et al. 2023, arXiv 2309.05019, prop. 4.2; tau = 1 is Song et al. 2021, arXiv 2011.13456).
m = 0 is the probability flow. At t = 0 this is x = D; from alpha_s = 0 it is alpha_t D plus
sigma_t times old noise (m = 0) or fresh (m > 0: the step is infinitely long in lambda).

A second evaluation at a midpoint in lambda is left out of both these steps: the midpoint of an
infinite step has no place, and what it would add is not determined by finitely many evaluations.
"""

from collections.abc import Callable
from itertools import pairwise
from math import exp, expm1, inf, isfinite, log1p, sqrt
from typing import Protocol

from fastgen.common.checks import check_fraction, check_nonnegative
from fastgen.plans import Builder, Form
from fastgen.solvers.exponential import exponential_step
from fastgen.solvers.registry import register

OneStep = Callable[[Builder, Form, float, float], Form]


def length(p: Builder, s: float, t: float) -> float:
    """h = lambda_t - lambda_s, infinite from alpha_s = 0 and to sigma_t = 0."""
    return p.half_log_snr(t) - p.half_log_snr(s)


def constant_decay(h: float, eta: float) -> float:
    """m = eta h, for tau^2 = eta throughout (0 for eta = 0 even where h is infinite)."""
    return eta * h if eta else 0.0


def ancestral_decay(h: float, eta: float) -> float:
    """m where the fresh noise is eta * posterior_std: e^{-2m} = 1 - eta^2 (1 - e^{-2h}).

    Infinite where eta > 1 asks for more noise than sigma_t has room for.
    """
    removed = -(eta**2) * expm1(-2 * h)
    return -0.5 * log1p(-removed) if removed < 1 else inf


def noise_std(p: Builder, t: float, m: float) -> float:
    """Standard deviation sigma_t sqrt(1 - e^{-2m}) of the fresh noise of a step to t."""
    return p.sigma(t) * sqrt(-expm1(-2 * m))


def sde_mean(p: Builder, x: Form, data: Form, s: float, t: float, m: float) -> Form:
    """The step of the module's formula, without its noise."""
    kept = exp(-m) * (p.sigma(t) / p.sigma(s))
    return kept * x + (-p.alpha(t) * expm1(-(length(p, s, t) + m))) * data


def fresh_noise(p: Builder, s: float, t: float, std: float) -> Form:
    """Noise of that standard deviation for the interval [t, s]; no draw is used for std = 0."""
    return std * p.noise(s, t) if std > 0 else Form({})


def sde_step(
    p: Builder, x: Form, data: Form, s: float, t: float, m: float, s_noise: float = 1.0
) -> Form:
    """The step of the module's formula; its noise is multiplied by s_noise."""
    return sde_mean(p, x, data, s, t, m) + fresh_noise(p, s, t, s_noise * noise_std(p, t, m))


def part_way(p: Builder, times: list[float], part: Callable[[float], float]) -> list[float]:
    """The times at a part of each step's length in lambda; NaN for an infinitely long one."""
    steps = pairwise(times)
    return p.schedule.times_at([p.half_log_snr(s) + part(length(p, s, t)) for s, t in steps])


def first_order_only(p: Builder, s: float, t: float) -> bool:
    """Whether the step from s to t is infinitely long in lambda."""
    return not isfinite(length(p, s, t))


@register(
    "dpm_2_ancestral",
    order=1,
    evaluations="2",
    stochastic=True,
    source="Crowson 2022, k-diffusion (sample_dpm_2_ancestral)",
)
def dpm_2_ancestral(
    p: Builder, times: list[float], *, eta: float = 1.0, s_noise: float = 1.0
) -> Form:
    """Midpoint step in r = sigma / alpha down to r_down, then noise back up to sigma_t.

    x_mid at r_mid = sqrt(r_s r_down) by Euler's step; x_t = alpha_t (x_s / alpha_s +
    (r_down - r_s) eps(x_mid)) + s_noise sigma_up z, with sigma_up = eta * posterior_std and
    r_down^2 = r_t^2 - (sigma_up / alpha_t)^2. The first and the last step are of first order
    where alpha_s = 0 or r_down = 0.
    """
    check_nonnegative("eta", eta)
    check_nonnegative("s_noise", s_noise)
    x = p.initial()
    for s, t in pairwise(times):
        m = ancestral_decay(length(p, s, t), eta)
        d = p.denoise(x, s)
        if first_order_only(p, s, t) or m == inf:
            x = p.state(sde_step(p, x, d, s, t, m, s_noise), t)
            continue
        high, low = p.schedule.ratio(s), p.schedule.ratio(t) * exp(-m)
        mid = p.schedule.time_at_ratio(sqrt(high * low))
        eps = p.epsilon(exponential_step(p, x, d, s, mid), mid)
        x = (p.alpha(t) / p.alpha(s)) * x + (p.alpha(t) * (low - high)) * eps
        x = p.state(x + fresh_noise(p, s, t, s_noise * noise_std(p, t, m)), t)
    return x


@register(
    "dpmpp_2s_ancestral",
    order=1,
    evaluations="2",
    stochastic=True,
    source="Crowson 2022, k-diffusion (sample_dpmpp_2s_ancestral); Lu et al. 2022, 2211.01095",
)
def dpmpp_2s_ancestral(
    p: Builder, times: list[float], *, eta: float = 1.0, s_noise: float = 1.0
) -> Form:
    """DPM-Solver++(2S) with r = 1/2 down to r_down, then noise back up to sigma_t.

    D is taken at the midpoint in lambda between s and r_down, reached by an exponential step;
    r_down and sigma_up as in `dpm_2_ancestral`.
    """
    check_nonnegative("eta", eta)
    check_nonnegative("s_noise", s_noise)
    x, decays = p.initial(), [ancestral_decay(length(p, s, t), eta) for s, t in pairwise(times)]
    middles = [
        p.half_log_snr(s) + (length(p, s, t) + m) / 2
        for s, t, m in zip(times, times[1:], decays, strict=False)
    ]
    steps = zip(times, times[1:], decays, p.schedule.times_at(middles), strict=False)
    for s, t, m, mid in steps:
        d = p.denoise(x, s)
        if not first_order_only(p, s, t) and m < inf:
            d = p.denoise(exponential_step(p, x, d, s, mid), mid)
        x = p.state(sde_step(p, x, d, s, t, m, s_noise), t)
    return x


@register(
    "dpmpp_sde",
    order=1,
    evaluations="2",
    stochastic=True,
    source="Crowson 2022, k-diffusion (sample_dpmpp_sde); Lu et al. 2022, arXiv 2211.01095",
)
def dpmpp_sde(
    p: Builder, times: list[float], *, eta: float = 1.0, s_noise: float = 1.0, r: float = 0.5
) -> Form:
    """Two-stage stochastic DPM-Solver++.

    An ancestral step to lambda_mid = lambda_s + r h gives D_mid; then an ancestral step from s to
    t with (1 - 1/(2r)) D_s + 1/(2r) D_mid. The noises are those of [mid, s] and of [t, s], which
    holds it: independent draws here and in k-diffusion's plain noise, one path on a Brownian tree.
    """
    check_nonnegative("eta", eta)
    check_nonnegative("s_noise", s_noise)
    check_fraction("r", r)
    x, middles = p.initial(), part_way(p, times, lambda h: r * h)
    for s, t, mid in zip(times, times[1:], middles, strict=False):
        h = length(p, s, t)
        d = p.denoise(x, s)
        if not first_order_only(p, s, t):
            inner = sde_step(p, x, d, s, mid, ancestral_decay(r * h, eta), s_noise)
            d = (1 - 1 / (2 * r)) * d + (1 / (2 * r)) * p.denoise(inner, mid)
        x = p.state(sde_step(p, x, d, s, t, ancestral_decay(h, eta), s_noise), t)
    return x


def euler_step(p: Builder, x: Form, s: float, t: float) -> Form:
    """Euler's step of d(x / alpha) = eps dr, r = sigma / alpha: the exponential step."""
    x = p.let(x)
    return exponential_step(p, x, p.denoise(x, s), s, t)


def heun_step(p: Builder, x: Form, s: float, t: float) -> Form:
    """x_t / alpha_t = x_s / alpha_s + (r_t - r_s) (eps_s + eps_t) / 2, r = sigma / alpha."""
    if first_order_only(p, s, t):
        return euler_step(p, x, s, t)
    x = p.let(x)
    half = p.alpha(t) * (p.schedule.ratio(t) - p.schedule.ratio(s)) / 2
    first = p.epsilon(x, s)
    start = (p.alpha(t) / p.alpha(s)) * x + half * first
    return start + half * p.epsilon(start + half * first, t)


def dpm_2_step(p: Builder, x: Form, s: float, t: float) -> Form:
    """x_t / alpha_t = x_s / alpha_s + (r_t - r_s) eps_mid, r_mid = sqrt(r_s r_t)."""
    if first_order_only(p, s, t):
        return euler_step(p, x, s, t)
    x = p.let(x)
    high, low = p.schedule.ratio(s), p.schedule.ratio(t)
    mid = p.schedule.time_at_ratio(sqrt(high * low))
    eps = p.epsilon(euler_step(p, x, s, mid), mid)
    return (p.alpha(t) / p.alpha(s)) * x + (p.alpha(t) * (low - high)) * eps


def renoise(p: Builder, x: Form, low: float, high: float, s_noise: float = 1.0) -> Form:
    """The forward process from time low up to time high, its noise multiplied by s_noise.

    x_high / alpha_high = x_low / alpha_low + s_noise sqrt(r_high^2 - r_low^2) z.
    """
    r, r_hat = p.schedule.ratio(low), p.schedule.ratio(high)
    std = s_noise * p.alpha(high) * sqrt((r_hat - r) * (r_hat + r))
    return (p.alpha(high) / p.alpha(low)) * x + fresh_noise(p, high, low, std)


class ChurnedSolver(Protocol):
    """What `with_churn` makes."""

    def __call__(
        self,
        p: Builder,
        times: list[float],
        /,
        *,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = inf,
        s_noise: float = 1.0,
    ) -> Form:
        """The result, as of any solver."""


def with_churn(step: OneStep) -> ChurnedSolver:
    """The solver that adds noise before each step of a deterministic one-step method.

    At each time s of the grid of n steps, with r = sigma / alpha: where s_tmin <= r_s <= s_tmax
    the state goes up to r_hat = (1 + gamma) r_s, gamma = min(s_churn / n, sqrt(2) - 1), by
    x / alpha += s_noise sqrt(r_hat^2 - r_s^2) z, and ``step`` runs from there. At alpha_s = 0,
    where r is infinite, there is nothing to add.
    Karras et al. 2022 (arXiv 2206.00364), Alg. 2.
    """

    def solve(
        p: Builder,
        times: list[float],
        *,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = inf,
        s_noise: float = 1.0,
    ) -> Form:
        """Raise the noise level r = sigma / alpha to (1 + gamma) r, then step from there to t.

        gamma = min(s_churn / steps, sqrt(2) - 1) where s_tmin <= r <= s_tmax, else 0; the fresh
        noise is multiplied by s_noise. s_churn = 0 is the deterministic solver.
        """
        check_nonnegative("s_churn", s_churn)
        check_nonnegative("s_noise", s_noise)
        gamma = min(s_churn / (len(times) - 1), sqrt(2) - 1)
        x = p.initial()
        for s, t in pairwise(times):
            r = p.schedule.ratio(s)
            start = s
            if gamma > 0 and s_tmin <= r <= s_tmax and isfinite(r):
                start = churned_time(p, r, (1 + gamma) * r)
                x = renoise(p, x, s, start, s_noise)
            x = p.state(step(p, x, start, t), t)
        return x

    return solve


def churned_time(p: Builder, r: float, r_hat: float) -> float:
    """The time of noise level r_hat, refused where the schedule has none."""
    if r_hat > p.schedule.ratio(1.0) * (1 + 1e-9):
        raise ValueError(
            f"s_churn: it raises the noise from sigma/alpha = {r:.6g} to {r_hat:.6g}, beyond "
            f"{p.schedule.ratio(1.0):.6g}, the most that {p.schedule!r} has; give a smaller "
            "s_churn, an s_tmax below the first noise level, or start later"
        )
    return p.schedule.time_at_ratio(r_hat)


CHURN = "Karras et al. 2022, arXiv 2206.00364, Alg. 2"
euler_churn = register("euler_churn", order=1, source=CHURN)(with_churn(euler_step))
heun_churn = register("heun_churn", order=2, evaluations="2", source=CHURN)(with_churn(heun_step))
dpm_2_churn = register(
    "dpm_2_churn", order=2, evaluations="2", source=f"k-diffusion (sample_dpm_2); {CHURN}"
)(with_churn(dpm_2_step))
