"""The peers' samplers as their own documentation recommends them, beside ours on one schedule."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import fastgen
from benchmarks.peers import samplers
from benchmarks.problems.budgets import most_steps
from benchmarks.suites.quality.judge import SUITE, Judge
from benchmarks.tools.rows import Row, recorded, skipped

OURS_BESIDE = ("ddim", "dpmpp_2m", "dpmpp_3m", "unipc", "deis", "res_2m", "ipndm_v", "lms", "heun")


def rows(name: str, judge: Judge, budgets: tuple[int, ...]) -> Iterator[Row]:
    """Ours and the peers' at every budget, from the same noise."""
    runs = {"diffusers": samplers.diffusers_runs(), "k-diffusion": samplers.k_diffusion_runs()}
    for package, found in runs.items():
        if not found:
            yield skipped(SUITE, name, package, (), f"{package} is not installed")
    schedule = judge.problem.schedule
    for budget in budgets:
        case = f"{name}, NFE {budget}"
        for solver in OURS_BESIDE:
            if recorded(SUITE, case, solver, judge.shape):
                continue
            plan = most_steps(solver, schedule, budget, "karras")
            if plan is not None:
                sampler = fastgen.Sampler(judge.model, plan, dtype=torch.float64)
                results = [sampler(z, seed=s) for s, z in enumerate(judge.starts)]
                yield from judge.rows(case, solver, "fastgen-torch", results, False, "")
        for package, found in runs.items():
            for provider, run in found.items():
                if recorded(SUITE, case, provider, judge.shape):
                    continue
                try:
                    results = [run(judge.problem, z, budget) for z in judge.starts]
                except ImportError as error:
                    reason = str(error).split("\n")[0]
                    yield skipped(SUITE, case, provider, judge.shape, reason)
                    continue
                drawn = "SDE" in provider or "sde" in provider or "ancestral" in provider
                yield from judge.rows(case, provider, package, results, drawn, "")
