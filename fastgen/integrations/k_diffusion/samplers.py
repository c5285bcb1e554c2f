"""k-diffusion's samplers and those of ComfyUI's copy, one row each: what differs between them.

A row names the solver, the arguments of the function after ``disable`` and where the solver's
noise comes from; `fastgen.integrations.k_diffusion.signatures.sampler` makes the function and its
documentation. The solvers are the library's, on the process with alpha = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fastgen.common.checks import check_choice, check_whole
from fastgen.integrations.common.levels import checked_levels
from fastgen.integrations.common.recipes import before_each_step
from fastgen.integrations.k_diffusion import programs
from fastgen.integrations.k_diffusion.choices import after_each_step, in_and_after_each_step
from fastgen.integrations.k_diffusion.signatures import renamed, sampler
from fastgen.solvers.exponential import ddpm, dpmpp_2m, euler_ancestral
from fastgen.solvers.multistep import ipndm, ipndm_v, lms
from fastgen.solvers.stochastic import (
    dpm_2_ancestral,
    dpm_2_churn,
    dpmpp_2s_ancestral,
    dpmpp_sde,
    euler_churn,
    heun_churn,
)
from fastgen.solvers.stochastic_multistep import dpmpp_2m_sde
from fastgen.solvers.velocity_rk import gradient_estimation

CHURN = {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": math.inf, "s_noise": 1.0}
ANCESTRAL = {"eta": 1.0, "s_noise": 1.0, "noise_sampler": None}
STOCHASTIC_ADAMS = {
    "tau_func": None,
    "s_noise": 1.0,
    "noise_sampler": None,
    "predictor_order": 3,
    "corrector_order": 4,
}


def er_sde_options(own: dict[str, Any], sigmas: Any) -> dict[str, Any]:
    """The caller's phi as the solver takes it, and the checked order."""
    scaler = own["noise_scaler"]
    return {
        "stage": check_whole("max_stage", own["max_stage"], 1, 3),
        "noise_scale": "er" if scaler is None else programs.relative_scale(scaler),
        "s_noise": own["s_noise"],
    }


def deis_options(own: dict[str, Any], sigmas: Any) -> dict[str, Any]:
    """The order, and the checked mode."""
    mode = check_choice("deis_mode", own["deis_mode"], ("tab", "rhoab"))
    return {"order": own["max_order"], "mode": mode}


def sa_solver_options(own: dict[str, Any], sigmas: Any) -> dict[str, Any]:
    """tau as the solver takes it: one number, and the steps that have it."""
    if own["s_noise"] != 1:
        raise ValueError(
            f"s_noise={own['s_noise']!r}: SA-Solver's noise is that of its process; give 1"
        )
    tau, steps = _constant_tau(own["tau_func"], checked_levels(sigmas))
    return {
        "predictor_order": own["predictor_order"],
        "corrector_order": own["corrector_order"],
        "mode": "PECE" if own["use_pece"] else "PEC",
        "lower_order_final": True,
        "compat": "diffusers" if own["simple_order_2"] else None,
        "tau": tau,
        "steps": steps,
    }


def sa_solver_pece_options(own: dict[str, Any], sigmas: Any) -> Mapping[str, Any]:
    """The same, always with an evaluation after the corrector."""
    return sa_solver_options({**own, "use_pece": True}, sigmas)


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


# fmt: off
# Without noise.
sample_lms = sampler(
    "sample_lms", partial(lms.build, starter="lower"), {"order": 4},
    "Linear multistep: variable-step Adams-Bashforth in sigma.",
    noisy=False,
)
sample_dpmpp_2m = sampler(
    "sample_dpmpp_2m", dpmpp_2m.build, {},
    "DPM-Solver++ (2M), Lu et al. 2022 (arXiv 2211.01095).",
    noisy=False,
)
sample_ipndm = sampler(
    "sample_ipndm", programs.denoised_at_zero(ipndm.build), {"max_order": 4},
    "PNDM started with lower orders (Zhang and Chen 2022, arXiv 2204.13902, app. H).",
    noisy=False, options=renamed(max_order="order"),
)
sample_ipndm_v = sampler(
    "sample_ipndm_v",
    programs.denoised_at_zero(partial(ipndm_v.build, starter="lower")),
    {"max_order": 4},
    "`sample_ipndm` with the exact weights of uneven steps.",
    noisy=False, options=renamed(max_order="order"),
)
sample_deis = sampler(
    "sample_deis", programs.denoised_at_zero(programs.deis), {"max_order": 3, "deis_mode": "tab"},
    "DEIS (Zhang and Chen 2022, arXiv 2204.13902).",
    noisy=False, options=deis_options,
)
sample_gradient_estimation = sampler(
    "sample_gradient_estimation", programs.denoised_at_zero(gradient_estimation.build),
    {"ge_gamma": 2.0},
    "Gradient estimation (Permenter and Yuan 2023, arXiv 2306.04848).",
    noisy=False, options=renamed(ge_gamma="gamma"),
)

# With churn: noise before a step, and a draw in every step also where there is none.
sample_euler = sampler(
    "sample_euler", euler_churn.build, CHURN,
    "Euler's method in sigma, with churn: Karras et al. 2022 (arXiv 2206.00364), Alg. 2.",
    unused=before_each_step,
)
sample_heun = sampler(
    "sample_heun", heun_churn.build, CHURN,
    "Heun's method in sigma, with churn: Karras et al. 2022 (arXiv 2206.00364), Alg. 2.",
    unused=before_each_step,
)
sample_dpm_2 = sampler(
    "sample_dpm_2", dpm_2_churn.build, CHURN,
    "The midpoint method in log sigma (DPM-Solver-2's point), with churn.",
    unused=before_each_step,
)
sample_heunpp2 = sampler(
    "sample_heunpp2", programs.heunpp2, CHURN,
    "Heun++ with up to three evaluations a step, with churn.",
    unused=before_each_step,
)

# Ancestral: a step down to sigma_down, then noise back up.
sample_euler_ancestral = sampler(
    "sample_euler_ancestral", euler_ancestral.build, ANCESTRAL,
    "Euler's method down to sigma_down, then noise back up.",
    unused=after_each_step,
)
sample_dpm_2_ancestral = sampler(
    "sample_dpm_2_ancestral", dpm_2_ancestral.build, ANCESTRAL,
    "`sample_dpm_2` down to sigma_down, then noise back up.",
    unused=after_each_step,
)
sample_dpmpp_2s_ancestral = sampler(
    "sample_dpmpp_2s_ancestral", dpmpp_2s_ancestral.build, ANCESTRAL,
    "DPM-Solver++ (2S) down to sigma_down, then noise back up (arXiv 2211.01095).",
    unused=after_each_step,
)
sample_res_multistep = sampler(
    "sample_res_multistep", programs.res_multistep, {"s_noise": 1.0, "noise_sampler": None},
    "Two-step RES (Zhang et al. 2023, arXiv 2308.02157); noise has no part in it.",
    unused=after_each_step, options=lambda own, sigmas: {"eta": 0.0, **own},
)
sample_res_multistep_ancestral = sampler(
    "sample_res_multistep_ancestral", programs.res_multistep, ANCESTRAL,
    "`sample_res_multistep` down to sigma_down, then noise back up.",
    unused=after_each_step,
)
sample_lcm = sampler(
    "sample_lcm", programs.renoised_jumps, {"noise_sampler": None, "s_noise": 1.0},
    "Jumps to data and fresh noise back up, for consistency models (arXiv 2303.01469).",
    unused=after_each_step, renews=True,
)
sample_ddpm = sampler(
    "sample_ddpm", ddpm.build, {"noise_sampler": None},
    "Ancestral sampling with the posterior's variance (Ho et al. 2020, arXiv 2006.11239).",
    unused=after_each_step,
)

# Of the reverse SDE. The default noise of the first four is the library's virtual Brownian tree,
# with a seed from torch's generator, or with noise="comfyui" from extra_args["seed"].
sample_dpmpp_sde = sampler(
    "sample_dpmpp_sde", dpmpp_sde.build, {**ANCESTRAL, "r": 0.5},
    "Two-stage stochastic DPM-Solver++ (arXiv 2211.01095).",
    brownian=True, unused=in_and_after_each_step,
)
sample_dpmpp_2m_sde = sampler(
    "sample_dpmpp_2m_sde", dpmpp_2m_sde.build, {**ANCESTRAL, "solver_type": "midpoint"},
    "Two-step stochastic DPM-Solver++ (arXiv 2211.01095).",
    brownian=True,
)
sample_dpmpp_2m_sde_heun = sampler(
    "sample_dpmpp_2m_sde_heun", dpmpp_2m_sde.build, {**ANCESTRAL, "solver_type": "heun"},
    'ComfyUI\'s name for `sample_dpmpp_2m_sde` with solver_type="heun".',
    brownian=True,
)
sample_dpmpp_3m_sde = sampler(
    "sample_dpmpp_3m_sde", programs.compat_3m_sde, ANCESTRAL,
    "Three-step stochastic DPM-Solver++, its last weight as in k-diffusion.",
    brownian=True,
)
sample_er_sde = sampler(
    "sample_er_sde", programs.er_sde,
    {"s_noise": 1.0, "noise_sampler": None, "noise_scaler": None, "max_stage": 3},
    "Extended reverse-time SDE (Cui et al. 2023, arXiv 2309.06169).",
    options=er_sde_options,
)
sample_sa_solver = sampler(
    "sample_sa_solver", programs.sa_solver_between,
    {**STOCHASTIC_ADAMS, "use_pece": False, "simple_order_2": False},
    "Stochastic Adams (Xue et al. 2023, arXiv 2309.05019). s_noise must be 1.",
    options=sa_solver_options,
)
sample_sa_solver_pece = sampler(
    "sample_sa_solver_pece", programs.sa_solver_between,
    {**STOCHASTIC_ADAMS, "simple_order_2": False},
    "`sample_sa_solver` with an evaluation after the corrector, too.",
    options=sa_solver_pece_options,
)
# fmt: on
