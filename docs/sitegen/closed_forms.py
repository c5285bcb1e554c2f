"""Errors that are measured when the site is built: few-step solvers, bridges, own step sizes.

The benchmarks do not have these: they need networks of another kind, which here are computed from
the closed form of a mixture of Gaussians.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

import fastgen
from benchmarks.problems.exact import Mixture
from fastgen.schedules import LinearVP, Rectified
from fastgen.solvers import plan

Curve = list[tuple[float, float]]
COUNT = 2000
STEPS = (1, 2, 4, 8)
_LAW = (
    "Measured when this page was built, on a mixture of 16 Gaussians in two dimensions (linear VP "
    "schedule, 2,000 samples). Up: the sliced Wasserstein distance to exact samples, beside that "
    "of two exact sets. "
)
_DISTILLED = _LAW + (
    "An exact consistency function (the flow's endpoint, by 24 steps of Heun) needs one evaluation "
    "only; a denoiser that was not distilled is not made for this solver."
)
_POLICIES = (
    "Measured when this page was built, on a mixture of 16 Gaussians in two dimensions (rectified "
    "flow, 2,000 samples). Up: the sliced Wasserstein distance to exact samples, beside that of "
    "two exact sets. cps draws as much noise in a short step as in a long one: its limit is not "
    "the data's law, though close to it where data lie in tight clusters as these."
)
CAPTIONS = {
    "cps": _POLICIES,
    "precise": _POLICIES,
    "consistency": _DISTILLED,
    "lcm": _DISTILLED,
    "tcd": _LAW
    + "A network that gives the flow's endpoint (by 24 steps of Heun) is right in one evaluation; "
    "the jump to times in between needs a network trained for it, which neither of these is.",
    "mean_flow": _LAW
    + "The average velocity is exact up to the 24 steps of Heun by which it is computed: one "
    "evaluation is enough, and more change nothing.",
    "bridge_sde": (
        "Measured when this page was built: the Brownian bridge (sigma = 1) between independent "
        "Gaussians N(-2, 0.5^2) and N(2, 1), whose velocity and score are linear (100,000 "
        "samples). Up: the Wasserstein distance of a Gaussian of the samples' mean and variance "
        "to N(2, 1), beside that of 100,000 exact samples."
    ),
    "repaint": (
        "Measured when this page was built: two numbers of variance 1 and correlation 0.9, of "
        "which the first is known to be 1.5 (5,000 samples). Up: the Wasserstein distance of a "
        "Gaussian of the mean and variance of the second to the exact one, N(1.35, 0.19). One "
        "repetition is ddpm, whose error more steps do not take away."
    ),
}


def distance(x: Tensor, y: Tensor) -> float:
    """The Wasserstein distance of two sets [n, d], mean over 64 directions for d > 1."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(x.shape[1], 64, generator=generator, dtype=x.dtype)
    directions = directions / directions.norm(dim=0)
    difference = (x @ directions).sort(0).values - (y @ directions).sort(0).values
    return difference.square().mean(0).mean().sqrt().item()


@cache
def _mixture() -> Mixture:
    return Mixture(2, LinearVP())


@cache
def _floor() -> float:
    return distance(_mixture().samples(COUNT, 11), _mixture().samples(COUNT, 21))


def _flow(x: Tensor, start: float, end: float, steps: int = 24, solver: str = "heun") -> Tensor:
    """The endpoint of the probability flow."""
    mixture = _mixture()
    model = fastgen.Model(mixture.denoise, mixture.schedule, "data")
    found = fastgen.sample(
        model, x, solver, steps, start=start, end=end, timesteps="log_snr", dtype=torch.float64
    )
    assert isinstance(found, Tensor)
    return found


def _in_law(net: Callable[..., Tensor], predicts: str, solver: str, steps: int) -> float:
    mixture = _mixture()
    model = fastgen.Model(net, mixture.schedule, predicts)
    x = fastgen.sample(
        model, (COUNT, 2), solver, steps, seed=1, timesteps="uniform", dtype=torch.float64
    )
    return distance(x, mixture.samples(COUNT, 11))


def few_step(solver: str) -> list[tuple[str, Curve]]:
    """An exact consistency function, and a denoiser that is none."""

    def jump(x: Tensor, t: Tensor) -> Tensor:
        return _flow(x, t[0].item(), 0.0)

    curves = [
        (name, [(float(n), _in_law(net, "data", solver, n)) for n in STEPS])
        for name, net in (("consistency function", jump), ("denoiser", _mixture().denoise))
    ]
    return [*curves, ("two exact sets", [(STEPS[0], _floor()), (STEPS[-1], _floor())])]


def mean_flow() -> list[tuple[str, Curve]]:
    """The exact average velocity."""

    def average(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        start, end = t[0].item(), r[0].item()
        return (x - _flow(x, start, end)) / (start - end)

    points = [(float(n), _in_law(average, "average_velocity", "mean_flow", n)) for n in STEPS]
    return [
        ("average velocity", points),
        ("two exact sets", [(STEPS[0], _floor()), (STEPS[-1], _floor())]),
    ]


def bridge_sde() -> list[tuple[str, Curve]]:
    """Between two Gaussians: the mean m(t) and variance v(t) of the marginals are polynomials."""

    def moments(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # t = 1 is the source, N(-2, 0.25), t = 0 the target, N(2, 1); sigma = 1.
        mean, slope = 2 - 4 * t, torch.full_like(t, -4.0)
        variance = 0.25 * t**2 + (1 - t) ** 2 + t * (1 - t)
        return mean, slope, variance, 0.5 * t - 2 * (1 - t) + 1 - 2 * t

    def net(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        mean, slope, variance, change = (each[:, None] for each in moments(t))
        away = (x - mean) / variance
        return slope + 0.5 * change * away, -away

    model = fastgen.Model(net, Rectified(), "velocity_and_score")

    def normal(draw: int) -> Tensor:
        return fastgen.randn((100_000, 1), seed=1, draw=draw, dtype=torch.float64)

    def off(x: Tensor) -> float:
        return float(((x.mean() - 2) ** 2 + (x.std() - 1) ** 2).sqrt())

    points = []
    for steps in (2, 5, 10, 20, 50, 100):
        x = fastgen.sample(
            model, 0.5 * normal(1) - 2, "bridge_sde", steps, seed=2, dtype=torch.float64
        )
        points.append((float(steps), off(x)))
    floor = off(2 + normal(2))
    return [("bridge_sde", points), ("exact samples", [(2.0, floor), (100.0, floor)])]


def repaint() -> list[tuple[str, Curve]]:
    """What is drawn beside a known number, with and without repetitions."""
    schedule, covariance = LinearVP(), torch.tensor([[1.0, 0.9], [0.9, 1.0]])

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(t[0].item()), schedule.sigma(t[0].item())
        total = alpha**2 * covariance + sigma**2 * torch.eye(2)
        found: Tensor = alpha * x @ torch.linalg.solve(total, covariance)
        return found

    model = fastgen.Model(denoise, schedule, "data", time_dtype=torch.float64)
    seen = fastgen.observations.Mask(torch.tensor([[1.5, 0.0]]), torch.tensor([True, False]))
    curves = []
    for repetitions in (1, 3, 10):
        points = []
        for steps in (5, 10, 20, 40):
            options = {"steps": steps, "repetitions": repetitions, "seed": 2}
            x = fastgen.posterior(model, seen, (5000, 2), "repaint", **options)[:, 1].double()
            nfe = plan("repaint", schedule, steps, repetitions=repetitions).nfe
            error = ((x.mean() - 1.35) ** 2 + (x.std() - 0.19**0.5) ** 2).sqrt()
            points.append((float(nfe), float(error)))
        curves.append((f"{repetitions} repetitions" if repetitions > 1 else "ddpm", points))
    return curves


def policies() -> list[tuple[str, Curve]]:
    """Solvers that are policies of reinforcement learning, at their own options."""
    mixture = Mixture(2, Rectified())
    model = fastgen.Model(mixture.denoise, mixture.schedule, "data")
    exact, steps = mixture.samples(COUNT, 11), (5, 10, 20, 40, 80)
    curves: list[tuple[str, Curve]] = []
    for solver in ("cps", "precise", "flow_grpo"):
        points = []
        for n in steps:
            x = fastgen.sample(model, (COUNT, 2), solver, n, seed=1, dtype=torch.float64)
            points.append((float(n), distance(x, exact)))
        curves.append((solver, points))
    floor = distance(exact, mixture.samples(COUNT, 21))
    return [*curves, ("two exact sets", [(steps[0], floor), (steps[-1], floor)])]


MEASURES: dict[str, Callable[[], list[tuple[str, Curve]]]] = {
    "consistency": partial(few_step, "consistency"),
    "lcm": partial(few_step, "lcm"),
    "tcd": partial(few_step, "tcd"),
    "mean_flow": mean_flow,
    "bridge_sde": bridge_sde,
    "repaint": repaint,
    "cps": policies,
    "precise": policies,
}


def adaptive() -> list[tuple[str, Curve]]:
    """Error-controlled solvers over tolerances."""
    from fastgen.sampling.error_controlled import SOLVERS, sample_adaptive

    schedule = LinearVP()
    mixture = Mixture(2, schedule)
    ends: dict[str, Any] = {"start": schedule.t_max, "end": 1e-3}
    noise = fastgen.randn((128, 2), seed=1, dtype=torch.float64)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        """The mixture's denoiser at a time for each row."""
        time = t.double()[:, None]
        log = [schedule.alpha(time), schedule.sigma(time)]
        alpha, sigma = (torch.as_tensor(each, dtype=torch.float64) for each in log)
        total = alpha**2 * mixture.variance + sigma**2
        away = x[:, None] - alpha[:, None] * mixture.means
        logits = -0.5 * (away.square() / total[:, None]).sum(2)
        mean = logits.softmax(1) @ mixture.means
        return mean + alpha * mixture.variance / total * (x - alpha * mean)

    model = fastgen.Model(denoise, schedule, "data", dtype=torch.float64, time_dtype=torch.float64)
    made = plan("rk4", schedule, 256, timesteps="log_snr", predicts="data", **ends)
    exact = fastgen.Sampler(model, made, dtype=torch.float64)(noise)
    curves = []
    for solver in SOLVERS:
        points = []
        for tolerance in (1e-2, 1e-3, 1e-4, 1e-5):
            found = sample_adaptive(
                model, noise, solver, rtol=tolerance, atol=tolerance, return_solution=True, **ends
            )
            error = (found.ys[-1] - exact).square().mean().sqrt().item()
            points.append((found.stats.evaluations.double().mean().item(), error))
        curves.append((solver, points))
    return curves
