"""EDM2's `edm_sampler`, of generate_images.py: Heun's method with a guiding network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_nonnegative, check_number, check_whole
from fastgen.integrations.common.levels import run
from fastgen.integrations.common.noise import NoiseSource, Seeds, check_noise
from fastgen.integrations.edm.process import VP_BETAS, Process, heun, sigma_steps


def edm2_sampler(
    net: Any,
    noise: Tensor,
    labels: Tensor | None = None,
    gnet: Any = None,
    num_steps: int = 32,
    sigma_min: float = 0.002,
    sigma_max: float = 80,
    rho: float = 7,
    guidance: float = 1,
    S_churn: float = 0,
    S_min: float = 0,
    S_max: float = math.inf,
    S_noise: float = 1,
    dtype: torch.dtype = torch.float32,
    randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
    *,
    seed: Seeds | None = None,
) -> Tensor:
    """`edm_sampler` of EDM2's code, with classifier-free guidance or autoguidance.

    Alg. 2 of Karras et al. 2022 (arXiv 2206.00364) on the denoiser of Karras et al. 2024
    (arXiv 2406.02507, eq. 3), D = D_ref + guidance (D_net - D_ref). Unlike EDM's, it draws noise
    in steps that churn only, and the network does not round its noise levels.

    Args:
        net: called as net(x, sigma, labels) -> denoised, sigma a tensor without axes.
        noise: [B, ...], unit noise.
        labels: passed to both networks.
        gnet: the guiding network, called likewise unless guidance is 1: without labels inside for
            classifier-free guidance, smaller or trained for a shorter time for autoguidance.
        num_steps: steps, of 2 evaluations but the last.
        sigma_min: lowest noise level.
        sigma_max: highest.
        rho: exponent of the grid.
        guidance: its strength; 1 is none.
        S_churn: noise added, in units of sigma / num_steps, up to sqrt(2) - 1 of sigma.
        S_min: lowest level with churn.
        S_max: highest level with churn.
        S_noise: factor of that noise.
        dtype: of the state, of networks' inputs and of the result.
        randn_like: where noise comes from.
        seed: makes noise in the kernels instead, one seed or one per sample.

    Returns:
        The samples [B, ...] in ``dtype``.

    Raises:
        ValueError: naming the argument that is out of range, or gnet where guidance needs one.
    """
    check_noise("torch" if seed is None else "contract", seed)
    check_whole("num_steps", num_steps, 1)
    check_number("guidance", guidance)
    check_nonnegative("S_churn", S_churn)
    check_nonnegative("S_noise", S_noise)
    if guidance != 1 and gnet is None:
        raise ValueError(
            f"guidance={guidance!r}: it needs a guiding network; give gnet, or guidance=1"
        )
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(
            f"sigma_min={sigma_min!r}, sigma_max={sigma_max!r}: expected 0 < sigma_min < sigma_max"
        )

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        denoised: Tensor = net(x, sigma[0], labels).to(dtype)
        if guidance == 1:
            return denoised
        reference: Tensor = gnet(x, sigma[0], labels).to(dtype)
        return reference.lerp(denoised, guidance)

    steps = sigma_steps("edm", num_steps, sigma_min, sigma_max, rho, 1e-3, 0.0, 0.0, 0)
    gamma = min(S_churn / num_steps, math.sqrt(2) - 1)
    churned = [s * (1 + gamma) if S_min <= s <= S_max else s for s in steps]
    x = noise.to(dtype)
    if not x.shape[0]:
        return x
    drawn = None if seed is not None else lambda start, end: randn_like(x)
    return run(
        heun,
        denoise,
        x * steps[0],
        [*steps, 0.0],
        disable=True,
        noise=NoiseSource("torch" if seed is None else "contract", seed, drawn),
        options={
            "process": Process("linear", "none", VP_BETAS),
            "times": (*steps, 0.0),
            "churned": tuple(churned),
            "euler": False,
            "alpha": 1.0,
            "s_noise": float(S_noise),
        },
    )
