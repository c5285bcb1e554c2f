"""The peers' samplers as their own documentation recommends them, beside ours on one schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import fastgen
from benchmarks.drop_ins import k_diffusion
from benchmarks.harness import Row, recorded, skipped
from benchmarks.problems import most_steps
from fastgen.schedules import DiscreteVP

if TYPE_CHECKING:
    from benchmarks.quality import Judge

SUITE = "quality"
# What diffusers' documentation recommends for few steps, on its discrete schedule.
DIFFUSERS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {"timestep_spacing": "trailing", "clip_sample": False},
    "EulerDiscreteScheduler": {"use_karras_sigmas": True},
    "HeunDiscreteScheduler": {"use_karras_sigmas": True},
    "DPMSolverMultistepScheduler": {"use_karras_sigmas": True},
    "DPMSolverSDEScheduler": {"use_karras_sigmas": True},
    "UniPCMultistepScheduler": {"use_karras_sigmas": True},
    "DEISMultistepScheduler": {"use_karras_sigmas": True},
    "PNDMScheduler": {"skip_prk_steps": True, "timestep_spacing": "leading"},
}
# On Karras' grid, as k-diffusion's own sampling script: evaluations of n steps.
K_DIFFUSION: dict[str, Callable[[int], int]] = {
    "sample_euler": lambda n: n,
    "sample_heun": lambda n: 2 * n - 1,
    "sample_dpm_2": lambda n: 2 * n - 1,
    "sample_lms": lambda n: n,
    "sample_dpmpp_2m": lambda n: n,
    "sample_dpmpp_2m_sde": lambda n: n,
    "sample_dpmpp_3m_sde": lambda n: n,
    "sample_dpmpp_2s_ancestral": lambda n: 2 * n - 1,
}
OURS_BESIDE = ("ddim", "dpmpp_2m", "dpmpp_3m", "unipc", "deis", "res_2m", "ipndm_v", "lms", "heun")


def rows(name: str, judge: Judge, budgets: tuple[int, ...]) -> Iterator[Row]:
    """Ours and the peers' at every budget, from the same noise."""
    runs = {"diffusers": diffusers_runs(), "k-diffusion": k_diffusion_runs()}
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
                    results = [run(judge, z, budget) for z in judge.starts]
                except ImportError as error:
                    reason = str(error).split("\n")[0]
                    yield skipped(SUITE, case, provider, judge.shape, reason)
                    continue
                drawn = "SDE" in provider or "sde" in provider or "ancestral" in provider
                yield from judge.rows(case, provider, package, results, drawn, "")


Run = Callable[["Judge", Tensor, int], Tensor]


def diffusers_runs() -> dict[str, Run]:
    """A run for each scheduler, none where diffusers is not installed."""
    try:
        import diffusers
    except ImportError:
        return {}

    def of(name: str) -> Run:
        return lambda judge, x, budget: with_diffusers(
            getattr(diffusers, name), DIFFUSERS[name], judge, x, budget
        )

    return {name: of(name) for name in DIFFUSERS}


def with_diffusers(
    scheduler: Any, config: dict[str, Any], judge: Judge, x: Tensor, budget: int
) -> Tensor:
    """diffusers' loop with at most ``budget`` calls of the exact noise prediction."""
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


def k_diffusion_runs() -> dict[str, Run]:
    """A run for each sampler, none where k-diffusion is not installed."""
    peer = k_diffusion()
    if peer is None:
        return {}

    def of(name: str) -> Run:
        return lambda judge, x, budget: with_k_diffusion(peer, name, judge, x, budget)

    return {name: of(name) for name in K_DIFFUSION}


def with_k_diffusion(peer: Any, name: str, judge: Judge, x: Tensor, budget: int) -> Tensor:
    """A sampler of k-diffusion with at most ``budget`` calls of the exact denoiser.

    It is told x / alpha at the noise level sigma / alpha, where the noise is the same.
    """
    schedule = judge.problem.schedule
    steps = max(n for n in range(1, budget + 1) if K_DIFFUSION[name](n) <= budget)
    low, high = schedule.ratio(schedule.t_min), schedule.ratio(schedule.t_max)
    sigmas = peer.get_sigmas_karras(steps, low, high).to(x.dtype)

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        time = schedule.time_at_ratio(sigma[0].item())
        at = torch.tensor([time], dtype=torch.float64)
        return judge.problem.denoise(noisy * schedule.alpha(time), at)

    options: dict[str, Any] = {}
    generator = torch.Generator().manual_seed(0)

    def noise(*_: Any) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    if "sde" in name or "ancestral" in name:
        options["noise_sampler"] = noise
    start = x / schedule.alpha(schedule.t_max)
    return getattr(peer, name)(denoise, start, sigmas, disable=True, **options)  # type: ignore[no-any-return]
