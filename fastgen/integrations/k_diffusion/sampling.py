"""What `k_diffusion.sampling` offers, and the samplers of ComfyUI's copy."""

from fastgen.integrations.k_diffusion.dpm_solver import sample_dpm_adaptive, sample_dpm_fast
from fastgen.integrations.k_diffusion.noise import (
    BatchedBrownianTree,
    BrownianTreeNoiseSampler,
    default_noise_sampler,
)
from fastgen.integrations.k_diffusion.samplers import (
    sample_ddpm,
    sample_deis,
    sample_dpm_2,
    sample_dpm_2_ancestral,
    sample_dpmpp_2m,
    sample_dpmpp_2m_sde,
    sample_dpmpp_2m_sde_heun,
    sample_dpmpp_2s_ancestral,
    sample_dpmpp_3m_sde,
    sample_dpmpp_sde,
    sample_er_sde,
    sample_euler,
    sample_euler_ancestral,
    sample_gradient_estimation,
    sample_heun,
    sample_heunpp2,
    sample_ipndm,
    sample_ipndm_v,
    sample_lcm,
    sample_lms,
    sample_res_multistep,
    sample_res_multistep_ancestral,
    sample_sa_solver,
    sample_sa_solver_pece,
)
from fastgen.integrations.k_diffusion.steps import (
    DPMSolver,
    PIDStepSizeController,
    linear_multistep_coeff,
    log_likelihood,
)
from fastgen.integrations.k_diffusion.utils import (
    append_zero,
    get_ancestral_step,
    get_sigmas_exponential,
    get_sigmas_karras,
    get_sigmas_polyexponential,
    get_sigmas_vp,
    to_d,
)

# ComfyUI's names for noise that is made on the GPU; here it is the same wherever it is made.
sample_dpmpp_sde_gpu = sample_dpmpp_sde
sample_dpmpp_2m_sde_gpu = sample_dpmpp_2m_sde
sample_dpmpp_2m_sde_heun_gpu = sample_dpmpp_2m_sde_heun
sample_dpmpp_3m_sde_gpu = sample_dpmpp_3m_sde

__all__ = [
    "BatchedBrownianTree",
    "BrownianTreeNoiseSampler",
    "DPMSolver",
    "PIDStepSizeController",
    "append_zero",
    "default_noise_sampler",
    "get_ancestral_step",
    "get_sigmas_exponential",
    "get_sigmas_karras",
    "get_sigmas_polyexponential",
    "get_sigmas_vp",
    "linear_multistep_coeff",
    "log_likelihood",
    "sample_ddpm",
    "sample_deis",
    "sample_dpm_2",
    "sample_dpm_2_ancestral",
    "sample_dpm_adaptive",
    "sample_dpm_fast",
    "sample_dpmpp_2m",
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_2m_sde_gpu",
    "sample_dpmpp_2m_sde_heun",
    "sample_dpmpp_2m_sde_heun_gpu",
    "sample_dpmpp_2s_ancestral",
    "sample_dpmpp_3m_sde",
    "sample_dpmpp_3m_sde_gpu",
    "sample_dpmpp_sde",
    "sample_dpmpp_sde_gpu",
    "sample_er_sde",
    "sample_euler",
    "sample_euler_ancestral",
    "sample_gradient_estimation",
    "sample_heun",
    "sample_heunpp2",
    "sample_ipndm",
    "sample_ipndm_v",
    "sample_lcm",
    "sample_lms",
    "sample_res_multistep",
    "sample_res_multistep_ancestral",
    "sample_sa_solver",
    "sample_sa_solver_pece",
    "to_d",
]
