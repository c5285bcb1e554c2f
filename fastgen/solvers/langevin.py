"""Langevin dynamics at fixed noise levels, alone and as a corrector."""

from itertools import pairwise
from math import sqrt

from fastgen.common.checks import check_nonnegative, check_whole
from fastgen.plans import Builder, Form
from fastgen.solvers.exponential import ancestral_step
from fastgen.solvers.registry import register


def langevin_step(p: Builder, x: Form, t: float, step: float) -> Form:
    """Unadjusted Langevin dynamics with target p_t: x + step score(x, t) + sqrt(2 step) z."""
    return x + step * p.score(x, t) + sqrt(2 * step) * p.noise(t, t)


@register(
    "annealed_langevin",
    order=None,
    evaluations="corrector_steps",
    stochastic=True,
    source="Song and Ermon 2019, arXiv 1907.05600, Alg. 1",
)
def annealed_langevin(
    p: Builder, times: list[float], *, step_size: float = 0.1, corrector_steps: int = 5
) -> Form:
    """Langevin dynamics at every noise level in turn, then one denoising step.

    At each time: ``corrector_steps`` times x <- x + tau score + sqrt(2 tau) z with
    tau = step_size sigma_t^2 (step_size is epsilon / (2 sigma_L^2) in the paper). Between levels
    x is multiplied by the ratio of the alphas (1 for variance-exploding processes). The step to
    t = 0 is the data prediction (Jolicoeur-Martineau et al. 2021, arXiv 2009.05475).
    """
    check_whole("corrector_steps", corrector_steps, 1)
    if not 0 < step_size < 1:
        raise ValueError(f"step_size={step_size!r}: expected 0 < step_size < 1 (stability)")
    x = p.initial()
    for s, t in pairwise(times):
        if p.alpha(s) == 0:
            raise ValueError(
                f"annealed_langevin: alpha(t={s}) is 0, data and noise levels cannot be matched "
                "there; pass start < 1"
            )
        for _ in range(corrector_steps):
            x = p.let(langevin_step(p, x, s, step_size * p.sigma(s) ** 2))
        x = p.denoise(x, s) if p.sigma(t) == 0 else (p.alpha(t) / p.alpha(s)) * x
        x = p.state(x, t)
    return x


@register(
    "predictor_corrector",
    order=None,  # the corrector's step does not shrink with the number of steps
    evaluations="1 + corrector_steps",
    stochastic=True,
    source="Song et al. 2021, arXiv 2011.13456, Alg. 2 and 3",
)
def predictor_corrector(
    p: Builder,
    times: list[float],
    *,
    snr: float = 0.16,
    corrector_steps: int = 1,
    eta: float = 1.0,
    step_rule: str = "sigma",
) -> Form:
    """An ancestral step to t, then Langevin steps at t of size tau.

    step_rule "norm": tau = 2 (snr |z| / |score|)^2 with the norms of each sample. (The paper
    averages them over the batch, which couples the samples.) step_rule "sigma": tau = 2 (snr
    sigma_t)^2, as |z| / |score| is near sigma_t. Then step sizes do not depend on the data, and a
    step is one stage.
    """
    if step_rule not in ("sigma", "norm"):
        raise ValueError(f"step_rule={step_rule!r}: expected 'sigma' or 'norm'")
    check_nonnegative("snr", snr)
    check_nonnegative("eta", eta)
    check_whole("corrector_steps", corrector_steps, 0)
    x = p.initial()
    for s, t in pairwise(times):
        x = ancestral_step(p, x, p.denoise(x, s), s, t, eta)
        for _ in range(corrector_steps if p.sigma(t) > 0 else 0):
            x = p.let(x)
            if step_rule == "norm":
                x = x + p.langevin_move(x, t, snr)
            else:
                x = langevin_step(p, x, t, 2 * (snr * p.sigma(t)) ** 2)
        x = p.state(x, t)
    return x
