"""Gradients through a run of 50 steps: memory and errors; and round trips of inversions.

A network of the demonstration's kind, a batch of 16 digits. "saved" is what the backward pass keeps
from the forward one. Of the whole graph, with checkpoints, and retraced; the plan is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

import fastgen
from benchmarks.problems.digits import OBJECTIVES, trained
from benchmarks.tools.rows import Row, row, show_progress
from fastgen.datasets import load_digits

SHAPE, STEPS = (16, 1, 8, 8), 50
SOLVERS = ("ddim", "heun", "ddpm")
WAYS: dict[str, dict[str, Any]] = {
    "retraced": {"memory": "reversible"},
    "checkpointed": {"checkpoint": True},
    "whole graph": {},
}


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    digits = load_digits()
    made = trained(OBJECTIVES["velocity"], digits.train, 100 if quick else 1400)
    net: Any = made.net
    net.requires_grad_(True)
    model = fastgen.Model(net, made.schedule, "velocity", per_sample=("labels",))
    images, labels = digits.held_out_a.images[:16], digits.held_out_a.labels[:16]
    solvers = SOLVERS[:1] if quick else SOLVERS
    for done, solver in enumerate(solvers):
        show_progress(done, len(solvers))
        options: dict[str, Any] = {"start": 0.98, "end": 0.02}
        plan = fastgen.plan(solver, model.schedule, STEPS, **options, reversible=True)
        sampler = fastgen.Sampler(model, plan)
        gradients = {}
        for provider, way in WAYS.items():
            saved = 0

            def pack(x: torch.Tensor) -> torch.Tensor:
                nonlocal saved
                saved += x.numel() * x.element_size()
                return x

            def run(way: Any = way, sampler: Any = sampler) -> torch.Tensor:
                y: torch.Tensor = sampler(SHAPE, labels=labels, differentiable=True, **way)
                return y.square().mean()

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
                result = run()
            found = torch.autograd.grad(result, list(net.parameters()))
            gradients[provider] = torch.cat([g.flatten() for g in found])

            yield _row(solver, provider, "saved", "MiB", [saved / 2**20])
        for provider in ("retraced", "checkpointed"):
            whole = gradients["whole graph"]
            error = float((gradients[provider] - whole).norm() / whole.norm())
            yield _row(solver, provider, "error", "", [error])
        for provider, exact in (("exact inversion", True), ("inversion", False)):
            if plan.draws and not exact:
                continue
            guidance = fastgen.Guidance(3.0, {"labels": (labels + 1) % 10})
            trip = fastgen.invert(
                model, images, solver, STEPS, exact=exact, guidance=guidance, **options,
                net_kwargs={"labels": labels},
            )  # fmt: skip
            yield _row(solver, provider, "error", "", trip.error.tolist())


def _row(case: str, provider: str, metric: str, unit: str, values: list[float]) -> Row:
    return row(
        "reversible", case, provider, "fastgen-torch", SHAPE, torch.float32, metric, unit, values
    )
