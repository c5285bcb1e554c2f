"""Quality with trained networks: digits from networks that predict noise, v and velocity.

Here the networks' own error is in the figures too. One metric is the Fréchet distance to held-out
digits in the features of the demonstration (the mean over two parts); its floor is that of one
part to the other. The other is the root mean square distance to where the network's own flow takes
the same noise (200 steps of UniPC, even in log-SNR), on several grids, with guidance and without.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import fastgen
from benchmarks.problems import digits
from benchmarks.problems.budgets import most_steps
from benchmarks.suites.quality.judge import GRIDS, SUITE
from benchmarks.tools.rows import Row, recorded, row, show_progress, skipped
from fastgen.common.threads import threads
from fastgen.datasets import CLASSES, load_digits
from fastgen.demo.classifier import classifier
from fastgen.generation import frechet_distance
from fastgen.schedules import CosineVP

STEPS, QUICK_STEPS, SEEDS = 2000, 150, 2
# Of distances to the network's own flow: samples of a seed, guidance.
BATCH, SCALES = 128, (1.0, 2.0)


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
            yield from ends(predicts, model, budgets, solvers, quick)


def ends(
    predicts: str,
    model: fastgen.Model,
    budgets: tuple[int, ...],
    solvers: list[str],
    quick: bool,
) -> Iterator[Row]:
    """Distances to the ends of the network's own flow, of solvers that draw nothing."""
    shape, schedule = (BATCH, 1, 8, 8), model.schedule
    grids = GRIDS if isinstance(schedule, CosineVP) else (schedule.default_grid,)
    labels = torch.arange(BATCH) % CLASSES
    fine = fastgen.plan("unipc", schedule, 200, timesteps="log_snr")
    for scale in SCALES[:1] if quick else SCALES:
        none = {"labels": torch.full((BATCH,), CLASSES)}
        guidance = fastgen.Guidance(scale, none) if scale != 1 else None

        def run(plan: fastgen.Plan, guidance: fastgen.Guidance | None = guidance) -> list[Tensor]:
            sampler = fastgen.Sampler(model, plan, guidance=guidance)
            return [sampler(shape, seed=s, labels=labels) for s in range(SEEDS)]

        exact = run(fine)
        for grid in grids[:1] if quick else grids:
            for solver in solvers:
                for budget in budgets:
                    guided = f", guidance {scale:g}" if guidance else ""
                    case = f"digits network, {predicts}{guided}, {grid}, NFE {budget}"
                    if recorded(SUITE, case, solver, shape):
                        continue
                    try:
                        plan = most_steps(solver, schedule, budget, grid)
                    except ValueError:  # no start at alpha = 0; its Fréchet row says so
                        continue
                    if plan is None or plan.draws:
                        continue
                    pairs = zip(run(plan), exact, strict=True)
                    values = [(x - e).square().mean().sqrt().item() for x, e in pairs]
                    note = "" if plan.nfe == budget else f"{plan.nfe} evaluations"
                    yield row(
                        SUITE, case, solver, "fastgen-torch", shape, torch.float32, "rms", "",
                        values, note=note,
                    )  # fmt: skip
