"""k-diffusion's samplers of the reverse SDE, whose default noise is a Brownian path.

Arguments as in `fastgen.integrations.k_diffusion.ordinary`. Default noise: the library's virtual
Brownian tree, its seed from torch's generator, or with noise="comfyui" from extra_args["seed"].
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastgen.integrations.k_diffusion.choices import (
    in_and_after_each_step,
    noise_options,
)
from fastgen.integrations.k_diffusion.programs import compat_3m_sde
from fastgen.integrations.levels import Callback, Denoiser, NoiseSampler, Seeds, run
from fastgen.solvers.stochastic import dpmpp_sde
from fastgen.solvers.stochastic_multistep import dpmpp_2m_sde


def sample_dpmpp_sde(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    r: float = 0.5,
    *,
    noise: str = "torch",
    seed: Seeds | None = None,
) -> Tensor:
    """Two-stage stochastic DPM-Solver++; r: where its middle lies in log sigma."""
    return run(
        dpmpp_sde,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        eta=eta,
        s_noise=s_noise,
        r=r,
        unused=None if noise == "comfyui" else in_and_after_each_step,
        **noise_options(x, noise_sampler, noise, seed, extra_args, brownian=sigmas),
    )


def sample_dpmpp_2m_sde(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    solver_type: str = "midpoint",
    *,
    noise: str = "torch",
    seed: Seeds | None = None,
) -> Tensor:
    """Two-step stochastic DPM-Solver++; solver_type: "midpoint" or "heun"."""
    return run(
        dpmpp_2m_sde,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        eta=eta,
        s_noise=s_noise,
        solver_type=solver_type,
        **noise_options(x, noise_sampler, noise, seed, extra_args, brownian=sigmas),
    )


def sample_dpmpp_3m_sde(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    *,
    noise: str = "torch",
    seed: Seeds | None = None,
) -> Tensor:
    """Three-step stochastic DPM-Solver++, its last weight as in k-diffusion."""
    return run(
        compat_3m_sde,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        eta=eta,
        s_noise=s_noise,
        **noise_options(x, noise_sampler, noise, seed, extra_args, brownian=sigmas),
    )


def sample_dpmpp_2m_sde_heun(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    solver_type: str = "heun",
    *,
    noise: str = "torch",
    seed: Seeds | None = None,
) -> Tensor:
    """ComfyUI's name for `sample_dpmpp_2m_sde` with solver_type="heun"."""
    return sample_dpmpp_2m_sde(
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        eta,
        s_noise,
        noise_sampler,
        solver_type,
        noise=noise,
        seed=seed,
    )
