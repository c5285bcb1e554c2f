"""Restart sampling: a deterministic solver, taken back to more noise at chosen levels."""

from collections.abc import Sequence
from itertools import pairwise
from math import log

import fastgen.timesteps as timesteps
from fastgen.common.checks import check_choice, check_whole
from fastgen.plans import Builder, Form
from fastgen.solvers.registry import register
from fastgen.solvers.stochastic import (
    OneStep,
    dpm_2_step,
    euler_step,
    heun_step,
    length,
    renoise,
    sde_step,
)

STEPS: dict[str, OneStep] = {"euler": euler_step, "heun": heun_step, "dpm_2": dpm_2_step}
Interval = tuple[float, float, int, int]


@register(
    "restart",
    order=None,
    evaluations="2, and 2 steps repetitions for each interval",
    stochastic=True,
    source="Xu et al. 2023, arXiv 2306.14878, Alg. 1",
)
def restart(
    p: Builder,
    times: list[float],
    *,
    intervals: Sequence[Interval] = ((0.06, 0.3, 2, 2),),
    base: str = "heun",
    rho: float = 7.0,
    s_noise: float = 1.0,
) -> Form:
    """Solve the probability flow; at each interval's low end add noise up to its high end, again.

    intervals: (low, high, steps, repetitions) in units of r = sigma / alpha. When the solver
    reaches low, ``repetitions`` times: x / alpha += s_noise sqrt(r_high^2 - r_low^2) z, then
    ``steps`` steps of the base method back from high to low on Karras' grid of exponent rho. As
    in the paper low is the time of the grid whose r is nearest (in log r, neither first nor
    last); high moves with it, so that the interval keeps its ratio. base: "heun" in r, "euler"
    (DDIM) or "dpm_2". A grid without interior times has no restart.

    The default interval is the paper's for CIFAR-10 with 18 steps; its [N, K] are [3, 2], N
    counting both ends.
    """
    step, levels = STEPS[check_choice("base", base, STEPS)], placed(p, times, intervals)
    x = p.initial()
    for s, t in pairwise(times):
        x = step(p, x, s, t)
        for high, steps, repetitions in levels.get(t, ()):
            grid = timesteps.times("karras", p.schedule, steps, start=high, end=t, rho=rho)
            for _ in range(repetitions):
                x = renoise(p, x, t, high, s_noise)
                for u, v in pairwise(grid.tolist()):
                    x = step(p, p.let(x), u, v)
        x = p.state(x, t)
    return x


@register(
    "repaint",
    order=1,
    evaluations="repetitions, after the first jump",
    stochastic=True,
    source="Lugmayr et al. 2022, arXiv 2201.09865, Alg. 1",
)
def repaint(p: Builder, times: list[float], *, jump: int = 1, repetitions: int = 10) -> Form:
    """Steps of ddpm in blocks of ``jump``, each but the first ``repetitions`` times.

    Between two runs of a block the forward process takes the state back to the block's beginning.
    On a model of masked samples (`fastgen.observations.conditioned`) what is drawn comes to agree
    with what is known; without a mask it is ddpm with more steps. The paper has 10 and 10 on 250
    steps; blocks of one step suit fewer. Blocks are counted from the end of the grid; the first may
    be shorter.
    """
    check_whole("jump", jump, 1)
    check_whole("repetitions", repetitions, 1)
    x, steps = p.initial(), list(pairwise(times))
    short = len(steps) % jump
    bounds = [0, *([short] if short else []), *range(short + jump, len(steps) + 1, jump)]
    for k, (first, last) in enumerate(pairwise(bounds)):
        rounds = repetitions if k else 1
        for r in range(rounds):
            if r:
                x = renoise(p, x, times[last], times[first])
            for s, t in steps[first:last]:
                x = p.let(x)
                x = sde_step(p, x, p.denoise(x, s), s, t, length(p, s, t))
                if r == rounds - 1:
                    x = p.state(x, t)
    return x


def placed(
    p: Builder, times: list[float], intervals: Sequence[Interval]
) -> dict[float, list[tuple[float, int, int]]]:
    """For times of the grid the restarts there: (time of high, steps, repetitions).

    Raises:
        ValueError: for an interval that makes no sense or exceeds the schedule.
    """
    result: dict[float, list[tuple[float, int, int]]] = {}
    inner = [t for t in times[1:-1] if p.sigma(t) > 0]
    for interval in intervals:
        low, high, steps, repetitions = interval
        if not 0 < low < high or steps < 1 or repetitions < 0:
            raise ValueError(
                f"intervals: {tuple(interval)!r} is not (low, high, steps, repetitions) with "
                "0 < low < high, steps >= 1 and repetitions >= 0"
            )
        if not inner:
            continue
        t = min(inner, key=lambda u: abs(log(p.schedule.ratio(u) / low)))
        top = p.schedule.ratio(t) * (high / low)
        if top > p.schedule.ratio(1.0):
            raise ValueError(
                f"intervals: {tuple(interval)!r}, moved to the grid's time {t:.6g}, reaches "
                f"sigma/alpha = {top:.6g}, beyond {p.schedule.ratio(1.0):.6g}, the most that "
                f"{p.schedule!r} has; give a smaller high, or a finer grid"
            )
        result.setdefault(t, []).append((p.schedule.time_at_ratio(top), steps, repetitions))
    return result
