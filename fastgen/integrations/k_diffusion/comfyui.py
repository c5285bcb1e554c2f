"""Samplers that ComfyUI's copy of k-diffusion adds, under its names and with its arguments.

Arguments as in `fastgen.integrations.k_diffusion.ordinary`. They are the library's solvers on the
process with alpha = 1; the page docs/integrations/k_diffusion.md says where a formula differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from fastgen.common.checks import check_choice, check_whole
from fastgen.integrations.k_diffusion import programs
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
    checked_levels,
    run,
)
from fastgen.solvers.exponential import ddpm
from fastgen.solvers.multistep import ipndm, ipndm_v, lms
from fastgen.solvers.stochastic_multistep import er_sde_1, er_sde_2, er_sde_3
from fastgen.solvers.velocity_rk import gradient_estimation

IPNDM, IPNDM_V, RHO_AB, DEIS_TAB, GRADIENT_ESTIMATION = map(
    programs.denoised_at_zero, (ipndm, ipndm_v, lms, programs.deis_tab, gradient_estimation)
)
ER_SDE = {1: er_sde_1, 2: er_sde_2, 3: er_sde_3}


def sample_heunpp2(
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
    """Heun++ with up to three evaluations a step, with churn."""
    return run(
        programs.heunpp2,
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


def sample_ipndm(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    max_order: int = 4,
) -> Tensor:
    """PNDM started with lower orders (Zhang and Chen 2022, arXiv 2204.13902, app. H)."""
    return run(
        IPNDM,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        order=max_order,
    )


def sample_ipndm_v(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    max_order: int = 4,
) -> Tensor:
    """`sample_ipndm` with the exact weights of uneven steps."""
    return run(
        IPNDM_V,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        order=max_order,
    )


def sample_deis(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    max_order: int = 3,
    deis_mode: str = "tab",
) -> Tensor:
    """DEIS (arXiv 2204.13902); deis_mode: polynomials in VP time ("tab") or in sigma ("rhoab")."""
    return run(
        DEIS_TAB if check_choice("deis_mode", deis_mode, ("tab", "rhoab")) == "tab" else RHO_AB,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        order=max_order,
    )


def sample_res_multistep(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    *,
    noise: str = "torch",
    seed: Seeds | None = None,
) -> Tensor:
    """Two-step RES (Zhang et al. 2023, arXiv 2308.02157); noise has no part in it."""
    return run(
        programs.res_multistep,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        eta=0.0,
        s_noise=s_noise,
        unused=None if noise == "comfyui" else after_each_step,
        **noise_options(x, noise_sampler, noise, seed, extra_args),
    )


def sample_res_multistep_ancestral(
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
    """`sample_res_multistep` down to sigma_down, then noise back up."""
    return run(
        programs.res_multistep,
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


def sample_gradient_estimation(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    ge_gamma: float = 2.0,
) -> Tensor:
    """Gradient estimation (Permenter and Yuan 2023, arXiv 2306.04848)."""
    return run(
        GRADIENT_ESTIMATION,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        gamma=ge_gamma,
    )


def sample_lcm(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    noise_sampler: NoiseSampler | None = None,
    s_noise: float = 1.0,
    *,
    noise: str = "torch",
    seed: Seeds | None = None,
) -> Tensor:
    """Jumps to data and fresh noise back up, for consistency models (arXiv 2303.01469)."""
    return run(
        programs.renoised_jumps,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        s_noise=s_noise,
        unused=None if noise == "comfyui" else after_each_step,
        **noise_options(x, noise_sampler, noise, seed, extra_args),
    )


def sample_ddpm(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    noise_sampler: NoiseSampler | None = None,
    *,
    noise: str = "torch",
    seed: Seeds | None = None,
) -> Tensor:
    """Ancestral sampling with the posterior's variance (Ho et al. 2020, arXiv 2006.11239)."""
    return run(
        ddpm,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        unused=None if noise == "comfyui" else after_each_step,
        **noise_options(x, noise_sampler, noise, seed, extra_args),
    )


def sample_er_sde(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    noise_scaler: Callable[[float], float] | None = None,
    max_stage: int = 3,
    *,
    noise: str = "torch",
    seed: Seeds | None = None,
) -> Tensor:
    """Extended reverse-time SDE (Cui et al. 2023, arXiv 2309.06169).

    noise_scaler: phi(sigma) as a function of a number, by default sigma (exp(sigma^0.3) + 10);
    max_stage: 1 to 3.
    """
    return run(
        ER_SDE[check_whole("max_stage", max_stage, 1, 3)],
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_scale="er" if noise_scaler is None else programs.relative_scale(noise_scaler),
        s_noise=s_noise,
        **noise_options(x, noise_sampler, noise, seed, extra_args),
    )


def sample_sa_solver(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    tau_func: Callable[[float], float] | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    predictor_order: int = 3,
    corrector_order: int = 4,
    use_pece: bool = False,
    simple_order_2: bool = False,
    *,
    noise: str = "torch",
    seed: Seeds | None = None,
) -> Tensor:
    """Stochastic Adams (Xue et al. 2023, arXiv 2309.05019).

    tau_func: tau at a noise level, one number on one range of levels and 0 elsewhere (None: 1
    everywhere; ComfyUI takes 1 between 20 and 80 % of its model's time); s_noise: 1 or 0;
    simple_order_2: the authors' leading-order weight in formulas of order 2.
    """
    if s_noise != 1:
        raise ValueError(f"s_noise={s_noise!r}: SA-Solver's noise is that of its process; give 1")
    tau, steps = _constant_tau(tau_func, checked_levels(sigmas))
    return run(
        programs.sa_solver_between,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        predictor_order=predictor_order,
        corrector_order=corrector_order,
        mode="PECE" if use_pece else "PEC",
        lower_order_final=True,
        compat="diffusers" if simple_order_2 else None,
        tau=tau,
        steps=steps,
        **noise_options(x, noise_sampler, noise, seed, extra_args),
    )


def _constant_tau(
    tau_func: Callable[[float], float] | None, levels: tuple[float, ...]
) -> tuple[float, tuple[int, int]]:
    """tau, and the first and the last step that have it; ComfyUI asks at the end of a step."""
    if tau_func is None:
        return 1.0, (0, max(len(levels) - 2, 0))
    taus = [float(tau_func(level)) for level in levels[1:]]
    taus = taus[:-1] if levels[-1] == 0 else taus
    noisy = [i for i, tau in enumerate(taus) if tau]
    if not noisy:
        return 0.0, (0, 0)
    first, last = noisy[0], noisy[-1]
    if len(set(taus[first : last + 1])) > 1:
        raise ValueError(
            f"tau_func: it takes the values {taus} at the ends of the steps; expected one number "
            "on one range of levels and 0 elsewhere"
        )
    return taus[first], (first, last)


def sample_sa_solver_pece(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    tau_func: Callable[[float], float] | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    predictor_order: int = 3,
    corrector_order: int = 4,
    simple_order_2: bool = False,
    *,
    noise: str = "torch",
    seed: Seeds | None = None,
) -> Tensor:
    """`sample_sa_solver` with an evaluation after the corrector, too."""
    return sample_sa_solver(
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        tau_func,
        s_noise,
        noise_sampler,
        predictor_order,
        corrector_order,
        use_pece=True,
        simple_order_2=simple_order_2,
        noise=noise,
        seed=seed,
    )
