"""Runs parallel in time: rounds of network calls, and what they cost in error.

A network of the demonstration's kind, batch 1, 50 steps. "fastgen, Picard" is without acceleration.
"model: k devices" is no measurement: a round takes as long as its evaluations in a row on the
device that has most of them, and a run's speed is that of its rounds beside `nfe` evaluations.
diffusers' two parallel schedulers run the loop of ParaDiGMS (Shih et al. 2023, arXiv 2305.16317,
algorithm 1), whose tolerance is another: so both are asked for the fewest rounds to an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

import fastgen
from benchmarks.peers import diffusers, installed
from benchmarks.problems.digits import OBJECTIVES, trained
from benchmarks.tools.harness import seconds
from benchmarks.tools.rows import Row, row, show_progress
from fastgen.datasets import load_digits

SHAPE, STEPS, SEEDS = (1, 1, 8, 8), 50, 5
SOLVERS = ("euler", "ddim", "dpmpp_2m", "unipc", "heun", "ddpm", "dpmpp_2m_sde")
TOLERANCES = (1e-2, 1e-4)
ERRORS = (1e-2, 1e-4)
DEVICES = (2, 4, 8)
PEERS = {"ddim": "DDIMParallelScheduler", "ddpm": "DDPMParallelScheduler"}


def modelled(report: fastgen.sampling.ParallelReport, devices: int) -> float:
    """How many times faster than one evaluation after the other, by the model."""
    spent, left = 0, report.nfe
    for accepted in report.accepted:
        spent += -(-left // devices)
        left -= accepted
    return report.nfe / spent


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """Of x from y, as a part of y's norm."""
    return float((x - y).norm() / y.norm())


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    digits = load_digits()
    model = trained(OBJECTIVES["velocity"], digits.train, 100 if quick else 1400)
    model = fastgen.Model(model.net, model.schedule, "velocity", per_sample=("labels",))
    labels = digits.held_out_a.labels[:1]
    solvers = SOLVERS[:2] if quick else SOLVERS
    for done, solver in enumerate(solvers):
        show_progress(done, len(solvers) + 2)
        sampler = fastgen.Sampler(model, fastgen.plan(solver, model.schedule, STEPS))
        expected = [sampler(SHAPE, seed=seed, labels=labels) for seed in range(SEEDS)]

        def alone(sampler: Any = sampler) -> Any:
            return sampler(SHAPE, labels=labels)

        times = [seconds(alone) / 1e-6 for _ in range(9)]
        yield _row(f"{solver}, one after the other", "fastgen", "time", "us", times)
        for tolerance in TOLERANCES:
            for provider in ("fastgen", "fastgen, Picard"):
                case = f"{solver}, tolerance {tolerance:g}"
                parallel = fastgen.Parallel(sampler.plan.nfe, tolerance)
                if provider != "fastgen":
                    parallel = replace(parallel, acceleration=None)
                reports: list[fastgen.sampling.ParallelReport] = []
                errors = []
                for seed, wanted in enumerate(expected):
                    x = sampler(SHAPE, seed=seed, labels=labels, parallel=parallel)
                    assert parallel.report is not None
                    reports.append(parallel.report)
                    errors.append(distance(x, wanted))
                for metric, values in (
                    ("rounds", [r.rounds for r in reports]),
                    ("evaluations", [r.rows for r in reports]),
                ):
                    yield _row(case, provider, metric, "", values)
                yield _row(case, provider, "error", "", errors)

                def run(sampler: Any = sampler, parallel: Any = parallel) -> Any:
                    return sampler(SHAPE, labels=labels, parallel=parallel)

                times = [seconds(run) / 1e-6 for _ in range(9)]
                yield _row(case, provider, "time", "us", times)
                if provider == "fastgen":
                    for devices in DEVICES:
                        found = [modelled(r, devices) for r in reports]
                        name = f"model: {devices} devices"
                        yield _row(case, name, "speed-up", "x", found, "a model, not measured")
    if installed("diffusers") is not None:
        yield from beside_diffusers(digits, quick)


def beside_diffusers(digits: Any, quick: bool) -> Iterator[Row]:
    """The fewest rounds to an error of the ordinary run of each."""
    model = trained(OBJECTIVES["noise"], digits.train, 100 if quick else 1400)
    model = fastgen.Model(model.net, model.schedule, "noise", per_sample=("labels",))
    labels = digits.held_out_a.labels[:1]

    @torch.inference_mode()
    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model.net(x, t / 1000, labels=labels.expand(len(x)))
        return found

    grid = [10.0**-k for k in (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5)]
    for solver, name in PEERS.items():
        sampler = fastgen.Sampler(model, fastgen.plan(solver, model.schedule, STEPS))
        ours: list[list[tuple[int, float]]] = []
        theirs: list[list[tuple[int, float]]] = []
        for seed in range(SEEDS):
            wanted = sampler(SHAPE, seed=seed, labels=labels)
            ours.append([])
            for tolerance in grid:
                parallel = fastgen.Parallel(STEPS, tolerance)
                x = sampler(SHAPE, seed=seed, labels=labels, parallel=parallel)
                assert parallel.report is not None
                ours[-1].append((parallel.report.rounds, distance(x, wanted)))
            start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
            alone, _ = diffusers.paradigms(name, STEPS, start, net, 0.0, window=1, seed=seed)
            theirs.append([])
            for tolerance in grid:
                y, rounds = diffusers.paradigms(
                    name, STEPS, start, net, tolerance, window=STEPS, seed=seed
                )
                theirs[-1].append((rounds, distance(y, alone)))
        for error in ERRORS:
            for provider, package, runs in (
                ("fastgen", "fastgen-torch", ours),
                ("diffusers", "diffusers", theirs),
            ):
                fewest = [min((r for r, e in run if e <= error), default=STEPS) for run in runs]
                case = f"{solver}, error {error:g}"
                yield _row(case, provider, "rounds", "", fewest, package=package)


def _row(
    case: str,
    provider: str,
    metric: str,
    unit: str,
    values: list[float] | list[int],
    note: str = "",
    package: str = "fastgen-torch",
) -> Row:
    numbers = [float(v) for v in values]
    return row(
        "parallel", case, provider, package, SHAPE, torch.float32, metric, unit, numbers, note=note
    )
