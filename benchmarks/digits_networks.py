"""Quality with trained networks: digits from networks that predict noise, v and velocity.

Here the networks' own error is in the figures too. The metric is the Fréchet distance to held-out
digits in the features of the demonstration (the mean over two parts); its floor is that of one
part to the other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

import fastgen
from benchmarks.harness import Row, recorded, row, show_progress, skipped
from benchmarks.problems import most_steps
from fastgen.demo import data, train
from fastgen.demo.networks import DigitFlow
from fastgen.demo.report import frechet_distance
from fastgen.schedules import CosineVP, Rectified, Schedule

SUITE = "quality"
NETWORKS: dict[str, Schedule] = {"noise": CosineVP(), "v": CosineVP(), "velocity": Rectified()}
STEPS, QUICK_STEPS, SEEDS, AVERAGE = 2000, 150, 2, 0.998


def trained(predicts: str, schedule: Schedule, digits: data.Part, steps: int) -> DigitFlow:
    """The moving average of a network after ``steps`` steps of AdamW on its mean squared error."""
    torch.manual_seed(0)
    network = DigitFlow()
    average = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps)
    for step in range(steps):
        chosen = torch.randint(len(digits.images), (train.BATCH,))
        x0, labels = digits.images[chosen], digits.labels[chosen]
        t = (torch.arange(train.BATCH) + torch.rand(train.BATCH)) / train.BATCH * schedule.t_max
        eps = torch.randn_like(x0)
        alpha, sigma = (_like(x0, f(t.double())) for f in (schedule.alpha, schedule.sigma))
        target = {"noise": eps, "v": alpha * eps - sigma * x0, "velocity": eps - x0}[predicts]
        loss = functional.mse_loss(network(alpha * x0 + sigma * eps, t, labels), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
        new = 1 - min(AVERAGE, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), new)
    return average.eval()


def _like(x: Tensor, values: Tensor) -> Tensor:
    return values.to(x.dtype).reshape(-1, 1, 1, 1)


def rows(quick: bool, budgets: tuple[int, ...], solvers: list[str]) -> Iterator[Row]:
    """Every solver on every network, at most ``budgets`` evaluations each."""
    digits = data.load_digits()
    with train.one_thread():
        features = train.classifier(digits.train, 10 * QUICK_STEPS // 2).describe
        held_out = digits.held_out_a, digits.held_out_b
        real = [features(part.images) for part in held_out]
        floor = frechet_distance(*real)
        labels, shape = held_out[0].labels, tuple(held_out[0].images.shape)
        for predicts, schedule in NETWORKS.items():
            if quick and predicts != "velocity":
                continue
            network = trained(predicts, schedule, digits.train, QUICK_STEPS if quick else STEPS)
            model = fastgen.Model(network, schedule, predicts)
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
