"""Steps that are exact for a constant data prediction, deterministic and stochastic.

From s to t < s with h = lambda_t - lambda_s, lambda = log(alpha / sigma):

    x_t = (sigma_t / sigma_s) x_s + alpha_t (1 - e^{-h}) D.

At t = 0 (sigma = 0, h = infinite) this is x = D.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import expm1, sqrt

from fastgen.common.checks import check_nonnegative
from fastgen.plans import Builder, Form
from fastgen.solvers.registry import register


def exponential_step(p: Builder, x: Form, data: Form, s: float, t: float) -> Form:
    """x_t from x_s for a constant data prediction (Lu et al. 2022, arXiv 2211.01095, eq. 8)."""
    h = p.half_log_snr(t) - p.half_log_snr(s)
    return (p.sigma(t) / p.sigma(s)) * x + (-p.alpha(t) * expm1(-h)) * data


def posterior_std(p: Builder, s: float, t: float) -> float:
    """Standard deviation of x_t given x_s and x_0, s > t: sigma_t sqrt(1 - SNR_s / SNR_t)."""
    return p.sigma(t) * sqrt(-expm1(2 * (p.half_log_snr(s) - p.half_log_snr(t))))


def ancestral_step(
    p: Builder, x: Form, data: Form, s: float, t: float, eta: float, noise_scale: float = 1.0
) -> Form:
    """x_t with fresh noise of standard deviation eta * posterior_std (DDIM, eq. 12 and 16).

    The deterministic part goes to sigma_down with sigma_down^2 + std^2 = sigma_t^2:
    x_t = alpha_t D + sigma_down (x_s - alpha_s D) / sigma_s + std z.
    """
    std = min(eta * posterior_std(p, s, t), p.sigma(t))
    ratio = sqrt((p.sigma(t) - std) * (p.sigma(t) + std)) / p.sigma(s)
    x = ratio * x + (p.alpha(t) - p.alpha(s) * ratio) * data
    return x + noise_scale * std * p.noise(s, t) if std > 0 else x


@register("ddim", order=1, source="Song, Meng, Ermon 2021, arXiv 2010.02502")
def ddim(p: Builder, times: list[float], *, eta: float = 0.0) -> Form:
    """Denoising diffusion implicit models; eta = 1 is ancestral sampling, eta = 0 an ODE step.

    x_t = alpha_t D + sqrt(sigma_t^2 - std^2) eps + std z, std = eta * posterior_std.
    """
    check_nonnegative("eta", eta)
    x = p.initial()
    for s, t in pairwise(times):
        d = p.denoise(x, s)
        step = ancestral_step(p, x, d, s, t, eta) if eta else exponential_step(p, x, d, s, t)
        x = p.state(step, t)
    return x


@register("ddim_cfgpp", order=1, source="Chung et al. 2024, CFG++, arXiv 2406.08070, Alg. 2")
def ddim_cfgpp(p: Builder, times: list[float], *, eta: float = 0.0) -> Form:
    """DDIM that renoises with the unconditional prediction: x_t = alpha_t D + sigma_t eps_u.

    D is the guided data prediction (scale between 0 and 1 there), eps_u the unconditional noise
    prediction. Without guidance it is DDIM.
    """
    check_nonnegative("eta", eta)
    x = p.initial()
    for s, t in pairwise(times):
        u = p.predict(x, s)
        std = min(eta * posterior_std(p, s, t), p.sigma(t)) if eta else 0.0
        down = sqrt((p.sigma(t) - std) * (p.sigma(t) + std))
        x = p.alpha(t) * u.data + down * u.unconditional.noise
        x = p.state(x + std * p.noise(s, t) if std else x, t)
    return x


@register(
    "euler_ancestral",
    order=1,
    stochastic=True,
    source="Crowson 2022, k-diffusion (sample_euler_ancestral)",
)
def euler_ancestral(
    p: Builder, times: list[float], *, eta: float = 1.0, s_noise: float = 1.0
) -> Form:
    """Euler step in sigma / alpha down to sigma_down, then noise back up to sigma_t.

    sigma_up = eta * posterior_std and sigma_down^2 = sigma_t^2 - sigma_up^2, in units of alpha_t;
    the noise is multiplied by s_noise.
    """
    check_nonnegative("eta", eta)
    x = p.initial()
    for s, t in pairwise(times):
        d = p.denoise(x, s)
        x = p.state(ancestral_step(p, x, d, s, t, eta, s_noise), t)
    return x


@register("ddpm", order=1, stochastic=True, source="Ho, Jain, Abbeel 2020, arXiv 2006.11239")
def ddpm(
    p: Builder, times: list[float], *, variance: str | float | Sequence[float] = "small"
) -> Form:
    """Ancestral sampling: the Gaussian posterior of x_t given x_s and the data prediction.

    With r = SNR_s / SNR_t: mean = r (alpha_t / alpha_s) x_s + alpha_t (1 - r) D. The variance is
    "small": sigma_t^2 (1 - r), the posterior's; "large": sigma_s^2 (1 - r), that of the forward
    step; a number v in [0, 1]: large^v small^(1 - v); "learned": that with the network's own v
    for every element (Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 15); or one variance for
    each step. The step to t = 0 adds no noise.
    """
    given = _variances(variance, len(times) - 1)
    v = float(variance) if isinstance(variance, float | int) else float(variance == "large")
    x = p.initial()
    for i, (s, t) in enumerate(pairwise(times)):
        gap = 2 * (p.half_log_snr(s) - p.half_log_snr(t))
        d = p.denoise(x, s)
        # r alpha_t / alpha_s, written without a division by alpha_s: it is 0 at zero terminal SNR.
        kept = p.alpha(s) / p.alpha(t) * (p.sigma(t) / p.sigma(s)) ** 2
        x = kept * x + (-p.alpha(t) * expm1(gap)) * d
        small, large = (sigma * sqrt(-expm1(gap)) for sigma in (p.sigma(t), p.sigma(s)))
        if p.sigma(t) > 0 and variance == "learned":
            x = x + p.learned_noise(small, large)
        elif p.sigma(t) > 0:
            std = sqrt(given[i]) if given else small ** (1 - v) * large**v
            x = x + std * p.noise(s, t)
        x = p.state(x, t)
    return x


def _variances(variance: object, steps: int) -> list[float]:
    """One variance per step where they are given, else nothing."""
    if isinstance(variance, Sequence) and not isinstance(variance, str):
        values = [float(v) for v in variance]
        if len(values) != steps or not all(0 <= v < float("inf") for v in values):
            raise ValueError(
                f"variance: expected {steps} finite variances >= 0, one per step, got {values}"
            )
        return values
    known = ("small", "large", "learned")
    if variance in known or (isinstance(variance, float | int) and 0 <= variance <= 1):
        return []
    raise ValueError(
        f"variance={variance!r}: expected 'small', 'large', 'learned', a number in [0, 1] or one "
        "variance per step"
    )


@register("dpmpp_2m", order=2, source="Lu et al. 2022, DPM-Solver++, arXiv 2211.01095, Alg. 2")
def dpmpp_2m(p: Builder, times: list[float]) -> Form:
    """Second-order multistep DPM-Solver++ in data prediction.

    D = D_s + (h / (2 h_last)) (D_s - D_last), then the exponential step with D. The first step
    and a step to t = 0, where the extrapolation has no limit, use D_s.
    """
    x, older, h_last = p.initial(), None, 0.0
    for s, t in pairwise(times):
        h = p.half_log_snr(t) - p.half_log_snr(s)
        d = p.denoise(x, s)
        extrapolated = d
        if older is not None and p.sigma(t) > 0:
            extrapolated = d + (h / (2 * h_last)) * (d - older)
        x = p.state(exponential_step(p, x, extrapolated, s, t), t)
        older, h_last = d, h
    return x
