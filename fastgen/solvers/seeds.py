"""SEEDS: exponential single-step solvers of the reverse SDE with one, two or three stages.

The linear part and the noise are exact. Stages share one noise path: the increments of its
consecutive intervals are drawn once and every stage up to their end is made of them. With
h = lambda_tau - lambda_s and tau^2 = eta throughout, a constant prediction gives

    data:   x = e^{-eta h} (sigma_tau / sigma_s) x_s + alpha_tau (1 - e^{-(1 + eta) h}) D + N
    noise:  x = (alpha_tau / alpha_s) x_s - (1 + eta) sigma_tau (e^h - 1) eps + N

where an interval [b, a] of the path contributes to N at tau, with unit z,

    data:   sigma_tau e^{-eta (lambda_tau - lambda_b)} sqrt(1 - e^{-2 eta (lambda_b - lambda_a)}) z
    noise:  sigma_tau sqrt(eta (e^{2 (lambda_tau - lambda_a)} - e^{2 (lambda_tau - lambda_b)})) z.

Gonzalez et al. 2023 (arXiv 2305.14267): eta = 1; the noise form is theirs for VP, the data form
for EDM. eta = 0 is DPM-Solver++ or DPM-Solver. From alpha_s = 0 and to t = 0 the step is the
data form's of first order, as the noise form has no limit there.
"""

from itertools import pairwise
from math import exp, expm1, sqrt

from fastgen.common.checks import check_fraction, check_nonnegative
from fastgen.plans import Builder, Form
from fastgen.solvers.registry import register
from fastgen.solvers.stochastic import (
    constant_decay,
    first_order_only,
    length,
    part_way,
    sde_step,
)
from fastgen.solvers.stochastic_multistep import moments

SOURCE = "Gonzalez et al. 2023, arXiv 2305.14267"


class SeedsStep:
    """One step's exact linear part and noise path, at s and at the later stages of the step."""

    def __init__(
        self, p: Builder, x: Form, s: float, eta: float, s_noise: float, prediction: str
    ) -> None:
        self.p, self.x, self.s, self.eta, self.s_noise = p, x, s, eta, s_noise
        self.of_noise = prediction == "noise"
        self.first = self.predict(x, s)
        self.ends, self.draws = [s], [Form({})]

    def predict(self, x: Form, t: float) -> Form:
        """The prediction that the form extrapolates."""
        return self.p.epsilon(x, t) if self.of_noise else self.p.denoise(x, t)

    def at(self, t: float, slope: Form | None = None, node: float = 1.0) -> Form:
        """The state at t: prediction constant, plus (lambda - lambda_s) / (node h) times slope."""
        p, h = self.p, length(self.p, self.s, t)
        self.ends.append(t)
        self.draws.append(p.noise(self.ends[-2], t) if self.eta and self.s_noise else Form({}))
        if self.of_noise:
            factor = -(1 + self.eta) * p.sigma(t)
            kept, flat, bent = p.alpha(t) / p.alpha(self.s), expm1(h), expm1(h) / h - 1
        else:
            factor = p.alpha(t)
            kept = exp(-self.eta * h) * (p.sigma(t) / p.sigma(self.s))
            flat, bent = moments((1 + self.eta) * h, 2)
        x = kept * self.x + (factor * flat) * self.first
        if slope is not None:
            x = x + (factor * bent / node) * slope
        for (a, b), z in zip(pairwise(self.ends), self.draws[1:], strict=True):
            x = x + (self.s_noise * self.share(a, b, t)) * z
        return x

    def share(self, a: float, b: float, t: float) -> float:
        """Standard deviation that the noise of [b, a] has at t."""
        p, eta = self.p, self.eta
        whole, later, own = length(p, a, t), length(p, b, t), length(p, a, b)
        if self.of_noise:
            return p.sigma(t) * exp(whole) * sqrt(-eta * expm1(-2 * own))
        return p.sigma(t) * exp(-eta * later) * sqrt(-expm1(-2 * eta * own))


def check(eta: float, s_noise: float, prediction: str) -> None:
    """Raise a ValueError for an option out of range."""
    check_nonnegative("eta", eta)
    check_nonnegative("s_noise", s_noise)
    if prediction not in ("data", "noise"):
        raise ValueError(f"prediction={prediction!r}: expected 'data' or 'noise'")


def limit(p: Builder, x: Form, s: float, t: float, eta: float, s_noise: float) -> Form:
    """The first-order data form, where the step is infinitely long."""
    return sde_step(p, x, p.denoise(x, s), s, t, constant_decay(length(p, s, t), eta), s_noise)


@register("seeds_1", order=1, stochastic=True, source=SOURCE)
def seeds_1(
    p: Builder,
    times: list[float],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    prediction: str = "data",
) -> Form:
    """One exponential step with the prediction at s (the exponential Euler-Maruyama method)."""
    check(eta, s_noise, prediction)
    x = p.initial()
    for s, t in pairwise(times):
        if first_order_only(p, s, t):
            x = p.state(limit(p, x, s, t, eta, s_noise), t)
        else:
            x = p.state(SeedsStep(p, x, s, eta, s_noise, prediction).at(t), t)
    return x


@register("seeds_2", order=2, evaluations="2", stochastic=True, source=SOURCE)
def seeds_2(
    p: Builder,
    times: list[float],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    prediction: str = "data",
    r: float = 0.5,
) -> Form:
    """Two stages: u at lambda_s + r h, then x_t with the prediction (1 - 1/(2r)) F_s + F_u/(2r)."""
    check(eta, s_noise, prediction)
    check_fraction("r", r)
    x, middles = p.initial(), part_way(p, times, lambda h: r * h)
    for s, t, mid in zip(times, times[1:], middles, strict=False):
        if first_order_only(p, s, t):
            x = p.state(limit(p, x, s, t, eta, s_noise), t)
            continue
        step = SeedsStep(p, x, s, eta, s_noise, prediction)
        bent = step.predict(step.at(mid), mid)
        step.first = (1 - 1 / (2 * r)) * step.first + (1 / (2 * r)) * bent
        x = p.state(step.at(t), t)
    return x


@register("seeds_3", order=2, evaluations="3", stochastic=True, source=SOURCE)
def seeds_3(
    p: Builder,
    times: list[float],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    prediction: str = "data",
) -> Form:
    """Three stages at lambda_s + h/3, + 2h/3 and + h, each linear in lambda through the last.

    u_1 with F_s; u_2 with F_s + (lambda - lambda_s)/(h/3) (F_1 - F_s); x_t with
    F_s + (lambda - lambda_s)/(2h/3) (F_2 - F_s).
    """
    check(eta, s_noise, prediction)
    x, thirds = p.initial(), part_way(p, times, lambda h: h / 3)
    rest = part_way(p, times, lambda h: 2 * h / 3)
    for s, t, one, two in zip(times, times[1:], thirds, rest, strict=False):
        if first_order_only(p, s, t):
            x = p.state(limit(p, x, s, t, eta, s_noise), t)
            continue
        step = SeedsStep(p, x, s, eta, s_noise, prediction)
        first = step.predict(step.at(one), one)
        second = step.predict(step.at(two, first - step.first, 0.5), two)
        x = p.state(step.at(t, second - step.first, 2 / 3), t)
    return x
