"""Fitted plans beside the best built-in at the same and at twice the evaluations.

Every plan is run from the noise of seeds that neither the fit nor the race has seen, and is held
against a fine solve of the same model: rms over samples and elements, and that of the median
sample (few samples that end in another mode carry the first). "best built-in" is the winner of
`fastgen.race` among all deterministic solvers on five grids. Seconds are the process's own CPU
time of a whole fit, the race included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch

import fastgen
from benchmarks.problems import digits
from benchmarks.problems.exact import EXACT
from benchmarks.tools.rows import Row, recorded, row, show_progress
from fastgen.common.threads import threads
from fastgen.datasets import load_digits
from fastgen.fitting import Errors
from fastgen.schedules import LinearVP

SUITE = "tuned"
BUDGETS = (4, 5, 6, 8, 10)
SEEDS, BATCH = 3, 64
FIT = {"samples": 384, "held_out": 128, "batch": BATCH, "iterations": 300}
SCALE = 2.0
STEPS, QUICK_STEPS = 1000, 150
SLOW = "3072"
LEAST_SQUARES, GRADIENTS = "fastgen.tune, least squares", "fastgen.tune, gradients"


class Problem(NamedTuple):
    """A model, the shape of a sample, and how it is asked."""

    model: fastgen.Model
    shape: tuple[int, ...]
    dtype: torch.dtype
    net_kwargs: Callable[[torch.Tensor], dict[str, Any]] | None = None
    guidance: fastgen.Guidance | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What race and fit are given of it."""
        return {"net_kwargs": self.net_kwargs, "guidance": self.guidance, "dtype": self.dtype}


def exact(name: str) -> Problem:
    """A problem with an exact denoiser."""
    made = EXACT[name](LinearVP())
    model = fastgen.Model(made.denoise, made.schedule, "data", time_dtype=torch.float64)
    return Problem(model, (made.dimension,), torch.float64)


def labels_of(ids: torch.Tensor) -> dict[str, Any]:
    """A class for each sample, all equally often."""
    return {"labels": ids % 10}


def network(model: fastgen.Model, guided: bool) -> Problem:
    """A network of the digits, with labels, guided or not."""
    none = {"labels": torch.full((BATCH,), 10)}
    guidance = fastgen.Guidance(SCALE, none) if guided else None
    return Problem(model, (1, 8, 8), torch.float32, labels_of, guidance)


def problems(quick: bool) -> Iterator[tuple[str, Callable[[], Problem]]]:
    """All problems, those that take longest last."""
    names = sorted(EXACT, key=lambda name: SLOW in name)
    for name in names[1:2] if quick else names:
        if SLOW not in name:
            yield name, partial(exact, name)
    train = load_digits().train
    for predicts, objective in digits.OBJECTIVES.items():
        if quick and predicts != "velocity":
            continue
        steps = QUICK_STEPS if quick else STEPS
        kept: list[fastgen.Model] = []

        def made(
            guided: bool, objective: Any = objective, kept: Any = kept, n: int = steps
        ) -> Problem:
            if not kept:
                kept.append(digits.trained(objective, train, n))
            return network(kept[0], guided)

        for guided in (False, True):
            name = f"digits network, {predicts}{f', guidance {SCALE:g}' if guided else ''}"
            yield name, partial(made, guided)
    for name in () if quick else names:
        if SLOW in name:
            yield name, partial(exact, name)


def judged(problem: Problem, plan: fastgen.Plan, ends: list[torch.Tensor]) -> list[Errors]:
    """A plan's errors on each seed."""
    found = []
    for seed, end in enumerate(ends):
        x = _drawn(problem, plan, seed)
        found.append(Errors.between([x], [end]))
    return found


def _drawn(problem: Problem, plan: fastgen.Plan, seed: int) -> torch.Tensor:
    sampler = fastgen.Sampler(problem.model, plan, guidance=problem.guidance, dtype=problem.dtype)
    kwargs = {} if problem.net_kwargs is None else problem.net_kwargs(torch.arange(BATCH))
    start = problem.model.schedule.sigma(float(plan.times[0]))
    z = fastgen.randn((BATCH, *problem.shape), seed=seed, dtype=problem.dtype) * start
    return sampler(z, net_kwargs=kwargs)


def reference(problem: Problem) -> list[torch.Tensor]:
    """Where the flow takes the noise of each seed: 200 steps of UniPC, even in log-SNR."""
    plan = fastgen.plan("unipc", problem.model.schedule, 200, timesteps="log_snr")
    return [_drawn(problem, plan, seed) for seed in range(SEEDS)]


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    budgets = (5,) if quick else BUDGETS
    fit = FIT | ({"samples": 128, "held_out": 64, "iterations": 40} if quick else {})
    listed = list(problems(quick))
    with threads(1):
        for done, (name, make) in enumerate(listed):
            show_progress(done, len(listed))
            problem = make()
            shape, ends = (BATCH, *problem.shape), list[torch.Tensor]()
            for budget in budgets:
                case = f"{name}, NFE {budget}"
                if recorded(SUITE, case, GRADIENTS, shape):
                    continue
                ends = ends or reference(problem)
                yield from _budget(problem, ends, case, budget, fit)


def _budget(
    problem: Problem, ends: list[torch.Tensor], case: str, budget: int, fit: dict[str, Any]
) -> Iterator[Row]:
    shape = (BATCH, *problem.shape)
    races = {
        n: fastgen.race(problem.model, problem.shape, n, batch=BATCH, **problem.options)
        for n in (budget, 2 * budget)
    }
    begun = time.process_time()
    closed, found = fastgen.tune(
        problem.model, problem.shape, budget, report=True, **problem.options,
        **{**fit, "iterations": 0},
    )  # fmt: skip
    seconds = {LEAST_SQUARES: time.process_time() - begun}
    begun = time.process_time()
    plan, more = fastgen.tune(
        problem.model, problem.shape, base=found.base, report=True, **problem.options, **fit
    )
    seconds[GRADIENTS] = time.process_time() - begun + found.seconds["race"]
    winners = {n: race.entries[0] for n, race in races.items()}
    note = f"from {found.base.solver}; {more.chosen}"
    plans = {
        who: (winners[n].plan, f"{winners[n].solver}, {winners[n].grid}")
        for who, n in (("best built-in", budget), ("best built-in, 2 NFE", 2 * budget))
    } | {
        LEAST_SQUARES: (closed, f"from {found.base.solver}"),
        GRADIENTS: (plan, note),
    }
    for who, (made, note) in plans.items():
        errors = judged(problem, made, ends)
        for metric in ("rms", "median"):
            values = [getattr(e, metric) for e in errors]
            yield row(
                SUITE, case, who, "fastgen-torch", shape, problem.dtype, metric, "", values,
                floor=getattr(more.teacher[-1], metric), note=note,
            )  # fmt: skip
    for who, spent in seconds.items():
        yield row(
            SUITE,
            case,
            who,
            "fastgen-torch",
            shape,
            problem.dtype,
            "fit",
            "s",
            [spent],
        )
