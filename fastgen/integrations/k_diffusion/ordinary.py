"""k-diffusion's samplers on plans: the churned and ancestral ones, and those without noise.

Common arguments: model(x, sigma [B], **extra_args) -> denoised; x [B, ...] at noise level
sigmas[0]; sigmas [n + 1], falling, the last may be 0; callback, called before each step with
{"x", "i", "sigma", "sigma_hat", "denoised"}; disable, of tqdm's bar (None: only on a terminal).

noise: "torch", from torch's generator in k-diffusion's order, draws that it does not use
included; "comfyui", from a generator seeded by extra_args["seed"] where that is given, without
unused draws; "contract", made in the kernels from ``seed`` (one, or one per sample), the same for
a sample whatever its batch, device or dtype; seed=None takes a seed from torch's generator.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from fastgen.integrations.k_diffusion.choices import (
    after_each_step,
    noise_options,
)
from fastgen.integrations.levels import (
    Callback,
    Denoiser,
    NoiseSampler,
    Seeds,
    before_each_step,
    run,
)
from fastgen.solvers.exponential import dpmpp_2m, euler_ancestral
from fastgen.solvers.multistep import lms
from fastgen.solvers.stochastic import (
    dpm_2_ancestral,
    dpm_2_churn,
    dpmpp_2s_ancestral,
    euler_churn,
    heun_churn,
)


def sample_euler(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    *,
    noise: str = "torch",
    seed: Seeds | None = None,
) -> Tensor:
    """Euler's method in sigma, with churn: Karras et al. 2022 (arXiv 2206.00364), Alg. 2."""
    return run(
        euler_churn,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        s_churn=s_churn,
        s_tmin=s_tmin,
        s_tmax=s_tmax,
        s_noise=s_noise,
        unused=None if noise == "comfyui" else before_each_step,
        **noise_options(x, None, noise, seed, extra_args),
    )


def sample_heun(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    *,
    noise: str = "torch",
    seed: Seeds | None = None,
) -> Tensor:
    """Heun's method in sigma, with churn: Karras et al. 2022 (arXiv 2206.00364), Alg. 2."""
    return run(
        heun_churn,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        s_churn=s_churn,
        s_tmin=s_tmin,
        s_tmax=s_tmax,
        s_noise=s_noise,
        unused=None if noise == "comfyui" else before_each_step,
        **noise_options(x, None, noise, seed, extra_args),
    )


def sample_dpm_2(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    *,
    noise: str = "torch",
    seed: Seeds | None = None,
) -> Tensor:
    """The midpoint method in log sigma (DPM-Solver-2's point), with churn."""
    return run(
        dpm_2_churn,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        s_churn=s_churn,
        s_tmin=s_tmin,
        s_tmax=s_tmax,
        s_noise=s_noise,
        unused=None if noise == "comfyui" else before_each_step,
        **noise_options(x, None, noise, seed, extra_args),
    )


def sample_euler_ancestral(
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
    """Euler's method down to sigma_down, then noise back up."""
    return run(
        euler_ancestral,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        eta=eta,
        s_noise=s_noise,
        unused=None if noise == "comfyui" else after_each_step,
        **noise_options(x, noise_sampler, noise, seed, extra_args),
    )


def sample_dpm_2_ancestral(
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
    """`sample_dpm_2` down to sigma_down, then noise back up."""
    return run(
        dpm_2_ancestral,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        eta=eta,
        s_noise=s_noise,
        unused=None if noise == "comfyui" else after_each_step,
        **noise_options(x, noise_sampler, noise, seed, extra_args),
    )


def sample_dpmpp_2s_ancestral(
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
    """DPM-Solver++ (2S) down to sigma_down, then noise back up (arXiv 2211.01095)."""
    return run(
        dpmpp_2s_ancestral,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        eta=eta,
        s_noise=s_noise,
        unused=None if noise == "comfyui" else after_each_step,
        **noise_options(x, noise_sampler, noise, seed, extra_args),
    )


def sample_lms(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    order: int = 4,
) -> Tensor:
    """Linear multistep: variable-step Adams-Bashforth in sigma."""
    return run(
        lms,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        order=order,
    )


def sample_dpmpp_2m(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> Tensor:
    """DPM-Solver++ (2M), Lu et al. 2022 (arXiv 2211.01095)."""
    return run(
        dpmpp_2m,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
    )
