"""Continuous batching around a network that costs nothing: a step beside the sampler's, and admit.

The network hands out tensors made beforehand. "fastgen" is a step of a full batch, or one `admit`
of a request that draws its own noise; "sampler" is a step of the same plan in a plain run, and
"network" the call of the network alone, which both have in them. Rounds alternate; what a row says
is of steps between which no request begins or ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

import fastgen
from benchmarks.problems.networks import Outputs
from benchmarks.tools.harness import seconds
from benchmarks.tools.rows import Row, recorded, row, show_progress
from fastgen.common.threads import threads
from fastgen.schedules import DiscreteVP, Rectified

STEPS = 40
SHAPES = [(8, 2), (16, 3, 8, 8), (256, 3, 32, 32)]
SOLVERS: list[tuple[str, Any, str]] = [
    ("euler", Rectified(), "velocity"),
    ("dpmpp_2m", Rectified(), "velocity"),
    ("ddpm", DiscreteVP.linear(), "noise"),
]
PROVIDERS = ("fastgen", "sampler", "network")


class Serving:
    """One plan's batch, always full, and its plain run."""

    def __init__(self, solver: str, schedule: Any, predicts: str, shape: tuple[int, ...]) -> None:
        self.net, self.x = Outputs(shape)(), torch.randn(shape)
        model = fastgen.Model(self.net, schedule, predicts)
        self.sampler = fastgen.Sampler(model, fastgen.plan(solver, schedule, STEPS))
        self.batch = self.sampler.serve(shape)
        self.times = torch.zeros(shape[0])
        self.tickets: list[int] = []
        self.begin()

    def begin(self) -> float:
        """Begin all requests anew; returns the seconds that one admission took."""
        for ticket in self.tickets:
            self.batch.retire(ticket)
        self.tickets.clear()
        rows = self.batch.free
        return seconds(lambda: self.tickets.append(self.batch.admit()), rows) / rows

    def round(self) -> dict[str, float]:
        """Microseconds of each."""
        found = {"admit": self.begin()}
        calls = STEPS - 1  # the last would finish requests
        found["fastgen"] = seconds(self.batch.step, calls) / calls
        found["sampler"] = seconds(lambda: self.sampler(self.x)) / self.sampler.plan.nfe
        found["network"] = seconds(lambda: self.net(self.x, self.times), calls) / calls
        return {name: 1e6 * spent for name, spent in found.items()}


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    cases = [(*solver, shape) for shape in SHAPES for solver in SOLVERS]
    for done, (solver, schedule, predicts, shape) in enumerate(cases):
        show_progress(done, len(cases))
        if recorded("serving", f"admit, {solver}", "fastgen", shape):
            continue
        with threads(1):
            made = Serving(solver, schedule, predicts, shape)
            made.round()
            rounds = [made.round() for _ in range(5 if quick else 30)]
        for name in PROVIDERS:
            spent = [one[name] for one in rounds]
            yield _row(f"a step, {solver}", name, shape, spent)
        yield _row(f"admit, {solver}", "fastgen", shape, [one["admit"] for one in rounds])
    show_progress(len(cases), len(cases))


def _row(case: str, provider: str, shape: tuple[int, ...], spent: list[float]) -> Row:
    kind = torch.float32
    return row("serving", case, provider, "fastgen-torch", shape, kind, "time", "us", spent)
