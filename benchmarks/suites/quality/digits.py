"""Quality with trained networks: digits from networks that predict noise, v and velocity.

Here the networks' own error is in the figures too. The metric is the Fréchet distance to held-out
digits in the features of the demonstration (the mean over two parts); its floor is that of one
part to the other.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

import fastgen
from benchmarks.problems import digits
from benchmarks.problems.budgets import most_steps
from benchmarks.suites.quality.judge import SUITE
from benchmarks.tools.rows import Row, recorded, row, show_progress, skipped
from fastgen.common.threads import threads
from fastgen.datasets import load_digits
from fastgen.demo.classifier import classifier
from fastgen.generation import frechet_distance

STEPS, QUICK_STEPS, SEEDS = 2000, 150, 2


def rows(quick: bool, budgets: tuple[int, ...], solvers: list[str]) -> Iterator[Row]:
    """Every solver on every network, at most ``budgets`` evaluations each."""
    images = load_digits()
    with threads(1):
        features = classifier(images.train, 10 * QUICK_STEPS // 2).describe
        held_out = images.held_out_a, images.held_out_b
        real = [features(part.images) for part in held_out]
        floor = frechet_distance(*real)
        labels, shape = held_out[0].labels, tuple(held_out[0].images.shape)
        for predicts, objective in digits.OBJECTIVES.items():
            if quick and predicts != "velocity":
                continue
            model = digits.trained(objective, images.train, QUICK_STEPS if quick else STEPS)
            schedule = model.schedule
            for done, solver in enumerate(solvers):
                show_progress(done, len(solvers))
                for budget in budgets:
                    case = f"digits network, {predicts}, NFE {budget}"
                    if recorded(SUITE, case, solver, shape):
                        continue
                    try:
                        plan = most_steps(solver, schedule, budget, schedule.default_grid)
                    except ValueError as error:  # no start at alpha = 0, for one
                        yield skipped(SUITE, case, solver, shape, str(error))
                        continue
                    if plan is None:
                        continue
                    sampler = fastgen.Sampler(model, plan)
                    found = [features(sampler(shape, seed=s, labels=labels)) for s in range(SEEDS)]
                    values = [sum(frechet_distance(f, r) for r in real) / 2 for f in found]
                    note = "" if plan.nfe == budget else f"{plan.nfe} evaluations"
                    yield row(
                        SUITE, case, solver, "fastgen-torch", shape, torch.float32, "frechet", "",
                        values, floor=floor, note=note,
                    )  # fmt: skip
