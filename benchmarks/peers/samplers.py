"""Samples of the peers at a budget of evaluations, from exact denoisers, as they recommend it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import diffusers, installed, k_diffusion
from benchmarks.problems.exact import Problem
from fastgen.schedules import DiscreteVP

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

Run = Callable[[Problem, Tensor, int], Tensor]


def diffusers_runs() -> dict[str, Run]:
    """A run for each scheduler, none where diffusers is not installed."""
    if installed("diffusers") is None:
        return {}
    return {name: partial(with_diffusers, name) for name in DIFFUSERS}


def with_diffusers(name: str, problem: Problem, x: Tensor, budget: int) -> Tensor:
    """diffusers' loop with at most ``budget`` calls of the exact noise prediction."""
    schedule = problem.schedule
    assert isinstance(schedule, DiscreteVP)

    def predict(x: Tensor, index: Tensor) -> Tensor:
        time = schedule.time_of_index(float(index))
        d = problem.denoise(x, torch.tensor([time], dtype=torch.float64))
        return (x - schedule.alpha(time) * d) / schedule.sigma(time)

    return diffusers.sampled(name, DIFFUSERS[name], budget, x, predict)


def k_diffusion_runs() -> dict[str, Run]:
    """A run for each sampler, none where k-diffusion is not installed."""
    peer = k_diffusion.sampling()
    if peer is None:
        return {}
    return {name: partial(with_k_diffusion, peer, name) for name in K_DIFFUSION}


def with_k_diffusion(peer: Any, name: str, problem: Problem, x: Tensor, budget: int) -> Tensor:
    """A sampler of k-diffusion with at most ``budget`` calls of the exact denoiser.

    It is told x / alpha at the noise level sigma / alpha, where the noise is the same.
    """
    schedule = problem.schedule
    steps = max(n for n in range(1, budget + 1) if K_DIFFUSION[name](n) <= budget)
    low, high = schedule.ratio(schedule.t_min), schedule.ratio(schedule.t_max)
    sigmas = peer.get_sigmas_karras(steps, low, high).to(x.dtype)

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        time = schedule.time_at_ratio(sigma[0].item())
        at = torch.tensor([time], dtype=torch.float64)
        return problem.denoise(noisy * schedule.alpha(time), at)

    options: dict[str, Any] = {}
    generator = torch.Generator().manual_seed(0)

    def noise(*_: Any) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    if "sde" in name or "ancestral" in name:
        options["noise_sampler"] = noise
    start = x / schedule.alpha(schedule.t_max)
    return getattr(peer, name)(denoise, start, sigmas, disable=True, **options)
