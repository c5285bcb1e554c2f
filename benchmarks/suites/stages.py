"""Every registered solver at (256, 2): microseconds per stage of everything but the network.

A run of 20 steps divided by its stages, one after each evaluation of a network that costs
nothing; one thread. The fixed cost of a run is in the figure.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

import fastgen
from benchmarks.problems.networks import Outputs
from benchmarks.tools.harness import Case, Provider, measured
from benchmarks.tools.rows import Row
from fastgen.schedules import LinearVP

SHAPE, STEPS = (256, 2), 20
QUICK = ("ddim", "ddpm", "dpmpp_2m", "unipc", "dpmpp_3m")


def _case(solver: str) -> Case:
    schedule, predicts = LinearVP(), "noise"
    if fastgen.solvers.get(solver).two_times:
        predicts = "average_velocity"
    plan = fastgen.plan(solver, schedule, STEPS, start=0.99, predicts=predicts)
    sampler = fastgen.Sampler(fastgen.Model(Outputs(SHAPE, 256)(), schedule, predicts), plan)
    x = torch.randn(SHAPE)
    run = Provider("fastgen", lambda: sampler(x), units=plan.nfe)
    return Case("stages", solver, SHAPE, torch.float32, [run])


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    return measured([_case(name) for name in (QUICK if quick else fastgen.solvers.names())], quick)
