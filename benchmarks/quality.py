"""Quality against network evaluations: every solver at several budgets, beside the peers.

With exact denoisers (`problems`) what is left is the solver's error: the root mean square
distance to the exact endpoint of the probability-flow ODE from the same initial noise, over
samples and dimensions (deterministic solvers), and the sliced Wasserstein-2 distance to exact
samples (all), whose floor is that of two exact sets. Medians and spreads are over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import fastgen
from benchmarks import digits_networks
from benchmarks.harness import Row, recorded, row, show_progress, skipped
from benchmarks.problems import EXACT, Problem, most_steps
from fastgen.schedules import DiscreteVP, LinearVP, Schedule
from fastgen.solvers import table

SUITE = "quality"
DIRECTIONS, BATCH, SEEDS = 256, 512, 3
BUDGETS = (4, 5, 6, 8, 10, 15, 20, 50)
# All solvers on this grid; on the others too where a problem is cheap.
GRID, OTHER_GRIDS = "log_snr", ("karras", "uniform")
CHEAP = "mixture, d = 64"
# They draw from a consistency function or a bridge, which a denoiser is not.
OTHER_MODELS = {"bridge_sde", "consistency", "lcm", "tcd"}
# What diffusers' documentation recommends for few steps, on its discrete schedule.
PEERS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {"timestep_spacing": "trailing", "clip_sample": False},
    "EulerDiscreteScheduler": {"use_karras_sigmas": True},
    "HeunDiscreteScheduler": {"use_karras_sigmas": True},
    "DPMSolverMultistepScheduler": {"use_karras_sigmas": True},
    "DPMSolverSDEScheduler": {"use_karras_sigmas": True},
    "UniPCMultistepScheduler": {"use_karras_sigmas": True},
    "DEISMultistepScheduler": {"use_karras_sigmas": True},
    "PNDMScheduler": {"skip_prk_steps": True, "timestep_spacing": "leading"},
}
OURS_BESIDE = ("ddim", "dpmpp_2m", "dpmpp_3m", "unipc", "deis", "res_2m", "ipndm_v", "lms", "heun")


def sliced_w2(x: Tensor, y: Tensor) -> float:
    """Root mean square over random directions of the 1-D Wasserstein-2 distance."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(x.shape[1], DIRECTIONS, generator=generator, dtype=torch.float64)
    directions /= directions.norm(dim=0)
    a, b = (x @ directions).sort(0).values, (y @ directions).sort(0).values
    return math.sqrt((a - b).square().mean().item())


class Judge:
    """The initial noises, the exact endpoints and the exact samples of one problem."""

    def __init__(self, problem: Problem, batch: int, seeds: int) -> None:
        self.problem, schedule = problem, problem.schedule
        self.shape = batch, problem.dimension
        self.model = fastgen.Model(problem.denoise, schedule, "data", time_dtype=torch.float64)
        self.starts = [
            fastgen.randn(self.shape, seed=s, dtype=torch.float64) * schedule.sigma(1.0)
            for s in range(seeds)
        ]
        self.endpoints = [
            fastgen.sample(self.model, z, "rk4", 200, timesteps=GRID, dtype=torch.float64)
            for z in self.starts
        ]
        self.data = problem.samples(batch, 10**6)
        self.floor = sliced_w2(problem.samples(batch, 10**6 + 1), self.data)

    def rows(
        self, case: str, provider: str, package: str, results: list[Tensor], drawn: bool, note: str
    ) -> Iterator[Row]:
        """The distances of what a solver made of the starts."""
        metrics = {"sliced_w2": [sliced_w2(x, self.data) for x in results]}
        if not drawn:
            pairs = zip(results, self.endpoints, strict=True)
            metrics["rms"] = [(x - e).square().mean().sqrt().item() for x, e in pairs]
        for metric, values in metrics.items():
            floor = self.floor if metric == "sliced_w2" else 0.0
            yield row(
                SUITE, case, provider, package, self.shape, torch.float64, metric, "", values,
                floor=floor, note=note,
            )  # fmt: skip


def ours(name: str, judge: Judge, solvers: list[str], budgets: tuple[int, ...]) -> Iterator[Row]:
    """Our solvers on the grids of a problem."""
    grids = (GRID, *OTHER_GRIDS) if name == CHEAP and len(budgets) > 1 else (GRID,)
    for grid in grids:
        for done, solver in enumerate(solvers):
            show_progress(done, len(solvers))
            for budget in budgets:
                case = f"{name}, {grid}, NFE {budget}"
                if recorded(SUITE, case, solver, judge.shape):
                    continue
                plan = most_steps(solver, judge.problem.schedule, budget, grid)
                if plan is None:
                    continue
                sampler = fastgen.Sampler(judge.model, plan, dtype=torch.float64)
                results = [sampler(z, seed=s) for s, z in enumerate(judge.starts)]
                note = "" if plan.nfe == budget else f"{plan.nfe} evaluations"
                yield from judge.rows(
                    case, solver, "fastgen-torch", results, bool(plan.draws), note
                )


def peers(
    name: str, make: Callable[[Schedule], Problem], budgets: tuple[int, ...]
) -> Iterator[Row]:
    """diffusers' schedulers as its documentation recommends them, beside ours, on its schedule."""
    case_name = f"{name}, 1000 levels"
    try:
        import diffusers
    except ImportError:
        yield skipped(SUITE, case_name, "diffusers", (), "diffusers is not installed")
        return
    schedule = DiscreteVP.linear()
    judge = Judge(make(schedule), BATCH, SEEDS)
    for budget in budgets:
        case = f"{case_name}, NFE {budget}"
        for solver in OURS_BESIDE:
            if recorded(SUITE, case, solver, judge.shape):
                continue
            plan = most_steps(solver, schedule, budget, "karras")
            if plan is not None:
                sampler = fastgen.Sampler(judge.model, plan, dtype=torch.float64)
                results = [sampler(z, seed=s) for s, z in enumerate(judge.starts)]
                yield from judge.rows(case, solver, "fastgen-torch", results, False, "")
        for scheduler, config in PEERS.items():
            if recorded(SUITE, case, scheduler, judge.shape):
                continue
            try:
                results = [
                    with_diffusers(getattr(diffusers, scheduler), config, judge, z, budget)
                    for z in judge.starts
                ]
            except ImportError as error:
                yield skipped(SUITE, case, scheduler, judge.shape, str(error).split("\n")[0])
                continue
            drawn = "SDE" in scheduler
            yield from judge.rows(case, scheduler, "diffusers", results, drawn, "")


def with_diffusers(
    scheduler: Any, config: dict[str, Any], judge: Judge, x: Tensor, budget: int
) -> Tensor:
    """A run of diffusers' loop with at most ``budget`` calls of the exact noise prediction."""
    schedule = judge.problem.schedule
    assert isinstance(schedule, DiscreteVP)
    made = scheduler(**config)
    for steps in range(budget, 0, -1):
        made.set_timesteps(steps)
        if len(made.timesteps) <= budget:
            break
    x = x * float(made.init_noise_sigma)
    torch.manual_seed(0)
    for index in made.timesteps:
        scaled = made.scale_model_input(x, index)
        time = schedule.time_of_index(float(index))
        d = judge.problem.denoise(scaled, torch.tensor([time], dtype=torch.float64))
        eps = (scaled - schedule.alpha(time) * d) / schedule.sigma(time)
        x = made.step(eps, index, x, return_dict=False)[0]
    return x.to(torch.float64)


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    budgets = (10,) if quick else BUDGETS
    solvers = [
        entry.name
        for entry in table.rows()
        if not fastgen.solvers.get(entry.name).two_times and entry.name not in OTHER_MODELS
    ]
    for name, make in EXACT.items():
        if quick and name != CHEAP:
            continue
        batch = 128 if "3072" in name else BATCH
        judge = Judge(make(LinearVP()), batch, 1 if quick else SEEDS)
        yield from ours(name, judge, solvers, budgets)
    yield from peers(CHEAP, EXACT[CHEAP], budgets)
    yield from digits_networks.rows(quick, budgets, solvers)
