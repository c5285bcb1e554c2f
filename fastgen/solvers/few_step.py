"""Multistep sampling of consistency models: jump to data, add noise, jump again."""

from itertools import pairwise

from fastgen.common.checks import check_fraction
from fastgen.plans import Builder, Form
from fastgen.schedules import DiscreteVP
from fastgen.solvers.registry import register
from fastgen.solvers.stochastic import fresh_noise, renoise


@register(
    "consistency",
    order=None,
    stochastic=True,
    source="Song et al. 2023, arXiv 2303.01469, Alg. 1",
)
def consistency(p: Builder, times: list[float]) -> Form:
    """x_t = alpha_t D + sigma_t z, for networks that jump to data in one evaluation."""
    x = p.initial()
    for s, t in pairwise(times):
        jump = p.denoise(x, s)
        x = p.state(p.alpha(t) * jump + fresh_noise(p, s, t, p.sigma(t)), t)
    return x


@register("lcm", order=None, stochastic=True, source="Luo et al. 2023, arXiv 2310.04378, Alg. 3")
def lcm(
    p: Builder,
    times: list[float],
    *,
    timestep_scaling: float = 10.0,
    sigma_data: float = 0.5,
) -> Form:
    """Consistency sampling with the boundary scalings of latent consistency models.

    f = c_skip x + c_out D, c_skip = sigma_data^2 / (k^2 + sigma_data^2) and
    c_out = k / sqrt(k^2 + sigma_data^2), k = timestep_scaling * index (1000 t where the schedule
    has no indices); then x_t = alpha_t f + sigma_t z. The last step adds no noise, wherever it
    ends: x = f there.
    """
    if not sigma_data > 0:
        raise ValueError(f"sigma_data={sigma_data!r}: expected a positive number")
    x = p.initial()
    for i, (s, t) in enumerate(pairwise(times)):
        k = timestep_scaling * _index(p, s)
        total = k**2 + sigma_data**2
        jump = (sigma_data**2 / total) * x + (k / total**0.5) * p.denoise(x, s)
        if i < len(times) - 2:
            jump = p.alpha(t) * jump + fresh_noise(p, s, t, p.sigma(t))
        x = p.state(jump, t)
    return x


@register("tcd", order=None, stochastic=True, source="Zheng et al. 2024, arXiv 2402.19159, Alg. 2")
def tcd(p: Builder, times: list[float], *, gamma: float = 0.3) -> Form:
    """Trajectory consistency: a DDIM jump below t, then the forward process back up to t.

    x_u = alpha_u D + sigma_u eps at u = (1 - gamma) t (rounded down to an index where the schedule
    has indices), x_t = (alpha_t / alpha_u) x_u + sqrt(sigma_t^2 - (alpha_t sigma_u / alpha_u)^2) z.
    gamma = 0 is DDIM, gamma = 1 consistency sampling.
    """
    if gamma:
        check_fraction("gamma", gamma)
    x = p.initial()
    for s, t in pairwise(times):
        d, u = p.denoise(x, s), _below(p, t, gamma)
        ratio = p.sigma(u) / p.sigma(s)
        jump = ratio * x + (p.alpha(u) - p.alpha(s) * ratio) * d
        x = p.state(renoise(p, jump, u, t) if u < t else jump, t)
    return x


def _index(p: Builder, t: float) -> float:
    if isinstance(p.schedule, DiscreteVP):
        return float(p.schedule.index_of_time(t))
    return 1000 * t


def _below(p: Builder, t: float, gamma: float) -> float:
    if not isinstance(p.schedule, DiscreteVP) or t == 0 or gamma == 0:
        return (1 - gamma) * t
    index = int((1 - gamma) * max(p.schedule.index_of_time(t), 0.0) + 1e-9)
    return min(float(p.schedule.time_of_index(index)), t)
