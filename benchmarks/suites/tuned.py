"""Fitted plans beside the best built-in at the same and at twice the evaluations.

Every plan is run from the noise of seeds that neither the fit nor the race has seen, and is held
against a fine solve of the same model: rms over samples and elements, and that of the median
sample (few samples that end in another mode carry the first). "best built-in" is the winner of
`fastgen.race` among all deterministic solvers on five grids. Networks have the Fréchet distance to
held-out digits too, as in `quality`. Beside them: published grids and searches for grids
(`peers.step_sizes`) at some budgets, and at one fits by gradients, with other papers' objectives
too. The noise network starts at sigma = 10 alpha: nearer to noise its error is multiplied so much
that its own flow leads nowhere (Fréchet distance 5100 in place of 19). Seconds are the process's
own CPU time of a whole fit, the race included.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import torch

import fastgen
from benchmarks.peers import azula, step_sizes
from benchmarks.problems import digits
from benchmarks.problems.exact import EXACT
from benchmarks.tools.rows import Row, recorded, row, show_progress, version_of
from fastgen.common.threads import threads
from fastgen.datasets import Part, load_digits
from fastgen.demo.classifier import classifier
from fastgen.fitting import Errors
from fastgen.fitting.study import Settings, Study
from fastgen.generation import frechet_distance
from fastgen.schedules import LinearVP

SUITE = "tuned"
BUDGETS = (4, 5, 6, 8, 10)
SEEDS, BATCH = 3, 64
SEED = 1_000_003  # as in race and tune, far from those that judge
FIT = {"samples": 384, "held_out": 128, "batch": BATCH}
SCALE = 2.0
STEPS, QUICK_STEPS = 1000, 150
SLOW = "3072"
LEAST_SQUARES, WHOLE = "fastgen.tune, least squares", "fastgen.tune, whole run"
# Fits by gradients: the same one, and from the usual start rms of a bespoke solver's logarithm
# (arXiv 2403.01329), and S4S's relaxed objective (2502.17423). At one budget.
ADAM = "Adam"
OBJECTIVES: dict[str, dict[str, Any]] = {
    ADAM: {},
    "BNS's loss": {"solver": "dpmpp_2m", "loss": "log"},
    "S4S's objective": {"solver": "dpmpp_2m", "relaxation": 0.1},
}
OBJECTIVES_AT = 5
OTHERS_AT = (5, 10)


class Problem(NamedTuple):
    """A model, the shape of a sample, and how it is asked."""

    model: fastgen.Model
    shape: tuple[int, ...]
    dtype: torch.dtype
    net_kwargs: Callable[[torch.Tensor], dict[str, Any]] | None = None
    guidance: fastgen.Guidance | None = None
    frechet: Callable[[fastgen.Plan, int], float] | None = None
    start: float | None = None

    @property
    def study(self) -> Study:
        """What `race` and `tune` learn from, for those who search for grids."""
        kwargs: Any = self.net_kwargs or {}
        settings = Settings(
            self.shape, BATCH, SEED, self.guidance, kwargs, self.dtype, "unipc", 100, 1e-4
        )
        return Study(self.model, settings)

    @property
    def options(self) -> dict[str, Any]:
        """What race and fit are given of it."""
        options = {"net_kwargs": self.net_kwargs, "guidance": self.guidance, "dtype": self.dtype}
        return options | {"start": self.start}


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
    noise = model.predicts == "noise"
    start = float(model.schedule.time_at_ratio(10)) if noise else None
    if guided:
        guidance = fastgen.Guidance(SCALE, {"labels": torch.full((BATCH,), 10)})
        return Problem(model, (1, 8, 8), torch.float32, labels_of, guidance, None, start)
    features, parts, real = held_out()
    labels, shape = parts[0].labels, tuple(parts[0].images.shape)

    def frechet(plan: fastgen.Plan, seed: int) -> float:
        found = features(fastgen.Sampler(model, plan)(shape, seed=seed, labels=labels))
        return sum(frechet_distance(found, r) for r in real) / 2

    return Problem(model, (1, 8, 8), torch.float32, labels_of, None, frechet, start)


@cache
def held_out() -> tuple[Any, tuple[Part, Part], list[torch.Tensor]]:
    """The features of the demonstration, two parts of the digits, and the features of those."""
    images = load_digits()
    features = classifier(images.train, 10 * QUICK_STEPS // 2).describe
    parts = images.held_out_a, images.held_out_b
    return features, parts, [features(part.images) for part in parts]


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
    plan = fastgen.plan(
        "unipc", problem.model.schedule, 200, timesteps="log_snr", start=problem.start
    )
    return [_drawn(problem, plan, seed) for seed in range(SEEDS)]


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    budgets = (5,) if quick else BUDGETS
    fit = FIT | ({"samples": 128, "held_out": 64, "iterations": 4} if quick else {})
    listed = list(problems(quick))
    with threads(1):
        for done, (name, make) in enumerate(listed):
            show_progress(done, len(listed))
            problem = make()
            shape, ends = (BATCH, *problem.shape), list[torch.Tensor]()
            for budget in budgets:
                case = f"{name}, NFE {budget}"
                for part, last in (
                    (_budget, WHOLE),
                    (_others, "OptimalSteps"),
                    (_azula, "azula"),
                ):
                    if part is not _budget and budget not in OTHERS_AT:
                        continue
                    if not recorded(SUITE, case, last, shape):
                        ends = ends or reference(problem)
                        yield from part(problem, ends, case, budget, fit)


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
    begun, given = time.process_time(), {**problem.options, "start": None}
    plan, more = fastgen.tune(
        problem.model, problem.shape, base=found.base, report=True, **given, **fit
    )
    seconds[WHOLE] = time.process_time() - begun + found.seconds["race"]
    winners = {n: race.entries[0] for n, race in races.items()}
    note = f"from {found.base.solver}; {more.chosen}"
    plans = {
        who: (winners[n].plan, f"{winners[n].solver}, {winners[n].grid}")
        for who, n in (("best built-in", budget), ("best built-in, 2 NFE", 2 * budget))
    } | {
        LEAST_SQUARES: (closed, f"from {found.base.solver}"),
        WHOLE: (plan, note),
    }
    for who, (made, note) in plans.items():
        floor = more.teacher[-1]
        yield from _judged(problem, ends, case, who, made, note, floor)
    for who, spent in seconds.items():
        yield row(
            SUITE, case, who, "fastgen-torch", shape, problem.dtype, "fit", "s", [spent]
        )  # fmt: skip


def _others(
    problem: Problem, ends: list[torch.Tensor], case: str, budget: int, fit: dict[str, Any]
) -> Iterator[Row]:
    """What others publish, on the same noise."""
    for who, made, note in step_sizes.plans(problem.study, budget, problem.start):
        yield from _judged(problem, ends, case, who, made, note)
    fit = fit | {"iterations": 10 * fit["iterations"] if "iterations" in fit else 300}
    for who, asked in OBJECTIVES.items() if budget == OBJECTIVES_AT else ():
        options = {k: v for k, v in asked.items() if k != "solver"}
        given, base, note = dict(problem.options), None, "from the race's"
        if "solver" in asked:
            schedule, given["start"] = problem.model.schedule, None
            base = fastgen.plan(asked["solver"], schedule, budget, start=problem.start)
            note = f"from {asked['solver']}"
        made = fastgen.tune(
            problem.model, problem.shape, None if base else budget, base=base, optimiser="adam",
            **given, **fit, **options,
        )  # fmt: skip
        yield from _judged(problem, ends, case, who, made, note)


def _azula(
    problem: Problem, ends: list[torch.Tensor], case: str, budget: int, fit: dict[str, Any]
) -> Iterator[Row]:
    """The best of azula's samplers of one evaluation in each step, where there is no network."""
    if problem.net_kwargs is not None or version_of("azula") == "unknown":
        return
    runs = azula.flows(problem.model, budget, problem.dtype)
    shape, scale = (BATCH, *problem.shape), problem.model.schedule.sigma(1.0)
    starts = [scale * fastgen.randn(shape, seed=s, dtype=problem.dtype) for s in range(SEEDS)]
    found = {
        name: [Errors.between([run(z)], [end]) for z, end in zip(starts, ends, strict=True)]
        for name, run in runs.items()
    }
    best = min(found, key=lambda name: max(e.rms for e in found[name]))
    for metric in ("rms", "median"):
        values = [getattr(e, metric) for e in found[best]]
        yield row(
            SUITE, case, "azula", "azula", shape, problem.dtype, metric, "", values, note=best
        )  # fmt: skip


def _judged(
    problem: Problem,
    ends: list[torch.Tensor],
    case: str,
    who: str,
    plan: fastgen.Plan,
    note: str,
    floor: Errors | None = None,
) -> Iterator[Row]:
    errors, shape = judged(problem, plan, ends), (BATCH, *problem.shape)
    found: dict[str, list[float]] = {m: [getattr(e, m) for e in errors] for m in ("rms", "median")}
    if problem.frechet is not None:
        found["frechet"] = [problem.frechet(plan, seed) for seed in range(SEEDS)]
    for metric, values in found.items():
        least = getattr(floor, metric, math.nan)
        yield row(
            SUITE, case, who, "fastgen-torch", shape, problem.dtype, metric, "", values,
            floor=least, note=note,
        )  # fmt: skip
