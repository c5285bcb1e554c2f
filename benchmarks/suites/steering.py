"""Steering: the reward of digits at equal evaluations, beside the best of as many samples.

A flow of the digits without labels is asked for a certain digit each by the log-probability that a
classifier gives to it: the mean over 40 requests of the highest reward among n samples, over seeds.
"a step" is what 40 steps around n particles take, beside the same samples drawn plainly. "edits"
are of held-out digits to the next class: the share that the classifier takes for it, the change.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import fastgen
from benchmarks.problems.digits import OBJECTIVES, trained
from benchmarks.tools.harness import seconds
from benchmarks.tools.rows import Row, row, show_progress
from fastgen.datasets import Part, load_digits
from fastgen.demo.classifier import classifier

REQUESTS, STEPS, SEEDS = 40, 40, 3
NUMBERS = (4, 8, 16)
SOLVERS = ("ddpm", "dpmpp_2m_sde")
NONE = 10  # the label that is none


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    digits = load_digits()
    model = trained(OBJECTIVES["velocity"], digits.train, 100 if quick else 1400)
    torch.manual_seed(1)
    judge = classifier(digits.train, 100 if quick else 1500)
    asked = torch.arange(REQUESTS) % 10
    shape = REQUESTS, 1, 8, 8
    kwargs = {"labels": torch.full((REQUESTS,), NONE)}
    solvers = SOLVERS[:1] if quick else SOLVERS
    for done, solver in enumerate(solvers):
        show_progress(done, len(solvers))
        plan = fastgen.plan(solver, model.schedule, STEPS)
        for n in NUMBERS[:1] if quick else NUMBERS:
            wanted = asked.repeat_interleave(n)[:, None]

            def reward(x: Tensor, wanted: Tensor = wanted) -> Tensor:
                return judge(x).log_softmax(1).gather(1, wanted)[:, 0]

            found: dict[str, list[float]] = {}
            for seed in range(2 if quick else SEEDS):
                for name, options in (("fastgen", {}), ("fastgen, max", {"potential": "max"})):
                    run: dict[str, Any] = {"seed": seed, "net_kwargs": kwargs, **options}
                    steered = fastgen.steer(model, plan, reward, shape, n, **run)
                    found.setdefault(name, []).append(_highest(steered))
                run = {"seed": seed, "net_kwargs": kwargs}
                best = fastgen.best_of(model, plan, reward, shape, n, **run)
                found.setdefault("best of n", []).append(_highest(best))
            case = f"{solver}, {n} particles"
            for name, values in found.items():
                yield _row(case, name, "reward", "nats", values)
            if n != NUMBERS[0]:
                continue
            sampler = fastgen.Sampler(model, plan)
            every, labels = (n * REQUESTS, *shape[1:]), torch.full((n * REQUESTS,), NONE)
            timed = {
                "fastgen": lambda: fastgen.steer(model, plan, reward, shape, n, net_kwargs=kwargs),  # noqa: B023
                "plain samples": lambda: sampler(every, labels=labels),  # noqa: B023
            }
            for name, call in timed.items():
                call()
                times = [seconds(call) / STEPS / 1e-6 for _ in range(3)]
                yield _row(case, name, "a step", "us", times)
    yield from edits(model, digits.held_out_a, judge, 1 if quick else SEEDS)


def edits(model: fastgen.Model, part: Part, judge: Any, seeds: int) -> Iterator[Row]:
    """Every held-out digit edited to the next class."""
    x, wanted = part.images, (part.labels + 1) % 10
    sides: dict[str, Any] = {"source": {"labels": part.labels}, "target": {"labels": wanted}}
    new: dict[str, Any] = {"net_kwargs": {"labels": wanted}}
    back = fastgen.invert(model, x, "heun", 20, exact=True, net_kwargs=sides["source"])
    ways: dict[str, Any] = {
        "SDEdit": lambda s: fastgen.sample(
            model, x.shape, "dpmpp_2m", 20, data=x, start=0.7, seed=s, **new
        ),
        "FlowEdit": lambda s: fastgen.flow_edit(
            model, x, 28, start=0.8, average=2, seed=s, **sides
        ),
        "RF-inversion": lambda s: fastgen.rf_inversion(
            model, x, 28, eta=0.4, until=0.7, seed=s, **sides
        ),
        "exact inversion": lambda s: back.resample(**new),
    }
    for name, way in ways.items():
        found = [way(seed) for seed in range(seeds)]
        shares = [float((judge(y).argmax(1) == wanted).float().mean()) for y in found]
        changes = [float((y - x).square().mean().sqrt()) for y in found]
        yield _row("edits", name, "wanted digits", "", shares)
        yield _row("edits", name, "rms change", "", changes)


def _highest(found: fastgen.control.Steered) -> float:
    return float(found.rewards.amax(1).mean())


def _row(case: str, provider: str, metric: str, unit: str, values: list[float]) -> Row:
    shape = REQUESTS, 1, 8, 8
    own = "steering", case, provider, "fastgen-torch", shape, torch.float32
    return row(*own, metric, unit, values)
