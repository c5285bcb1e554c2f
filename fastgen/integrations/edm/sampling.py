"""`edm_sampler` and `ablation_sampler` of EDM's generate.py on plans: one kernel call per stage."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_choice, check_fraction, check_nonnegative, check_whole
from fastgen.integrations.common.levels import moving_steps, run
from fastgen.integrations.common.noise import NoiseSource, Seeds, check_noise
from fastgen.integrations.common.recipes import before_each_step
from fastgen.integrations.edm.process import (
    DISCRETIZATIONS,
    SCALINGS,
    SCHEDULES,
    VP_BETAS,
    Process,
    heun,
    sigma_steps,
    vp_betas,
    vp_sigma,
)


def edm_sampler(
    net: Any,
    latents: Tensor,
    class_labels: Tensor | None = None,
    randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
    num_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80,
    rho: float = 7,
    S_churn: float = 0,
    S_min: float = 0,
    S_max: float = math.inf,
    S_noise: float = 1,
    *,
    noise: str = "torch",
    seed: Seeds | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Heun's method with churn: Alg. 2 of Karras et al. 2022 (arXiv 2206.00364).

    Args:
        net: called as net(x, sigma, class_labels) -> denoised, sigma a tensor without axes; with
            round_sigma, sigma_min and sigma_max as EDM's networks have them.
        latents: [B, ...], unit noise.
        class_labels: passed to the network.
        randn_like: where noise comes from; called in every step, as in EDM's code.
        num_steps: steps, of 2 evaluations but the last.
        sigma_min: lowest noise level, raised to the network's.
        sigma_max: highest, lowered to the network's.
        rho: exponent of the grid.
        S_churn: noise added, in units of sigma / num_steps, up to sqrt(2) - 1 of sigma.
        S_min: lowest level with churn.
        S_max: highest level with churn.
        S_noise: factor of that noise.
        noise: "torch", from randn_like; or "contract", made in the kernels from ``seed``.
        seed: of noise="contract", one or one per sample; None takes one from torch's generator.
        dtype: of the state and of what the network is given: float64, as in EDM's code, or
            float32, at half the memory traffic.

    Returns:
        The samples [B, ...] in ``dtype``.

    Raises:
        ValueError: naming the argument that is out of range.
    """
    return ablation_sampler(
        net,
        latents,
        class_labels,
        randn_like,
        num_steps,
        sigma_min,
        sigma_max,
        rho,
        S_churn=S_churn,
        S_min=S_min,
        S_max=S_max,
        S_noise=S_noise,
        noise=noise,
        seed=seed,
        dtype=dtype,
    )


def ablation_sampler(
    net: Any,
    latents: Tensor,
    class_labels: Tensor | None = None,
    randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
    num_steps: int = 18,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float = 7,
    solver: str = "heun",
    discretization: str = "edm",
    schedule: str = "linear",
    scaling: str = "none",
    epsilon_s: float = 1e-3,
    C_1: float = 0.001,
    C_2: float = 0.008,
    M: int = 1000,
    alpha: float = 1,
    S_churn: float = 0,
    S_min: float = 0,
    S_max: float = math.inf,
    S_noise: float = 1,
    *,
    noise: str = "torch",
    seed: Seeds | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """The generalised sampler of EDM's ablations (arXiv 2206.00364, table 1 and app. D).

    Args:
        net: as in `edm_sampler`, with the arguments not named here.
        latents: [B, ...], unit noise.
        class_labels: passed to the network.
        randn_like: where noise comes from.
        num_steps: number of steps.
        sigma_min: lowest noise level; None is that of the discretization (0.002; "ve" 0.02).
        sigma_max: highest; None is 80 for "edm", 100 "ve", 81 "iddpm", that of t = 1 "vp".
        rho: exponent of discretization "edm".
        solver: "heun" or "euler".
        discretization: of the noise levels: "edm", "vp", "ve" or "iddpm".
        schedule: sigma(t): "linear", "vp" or "ve".
        scaling: s(t): "none" or "vp".
        epsilon_s: last time of the VP process.
        C_1: smallest ratio of iDDPM's alpha_bar.
        C_2: its offset.
        M: its number of levels.
        alpha: where the second evaluation lies in a step, 0 < alpha <= 1; 1/2 is the midpoint
            rule, 2/3 Ralston's.
        S_churn: as in `edm_sampler`.
        S_min: as in `edm_sampler`.
        S_max: as in `edm_sampler`.
        S_noise: as in `edm_sampler`.
        noise: as in `edm_sampler`.
        seed: as in `edm_sampler`.
        dtype: as in `edm_sampler`.

    Raises:
        ValueError: naming the argument that is out of range.
    """
    check_choice("solver", solver, ("heun", "euler"))
    check_choice("discretization", discretization, DISCRETIZATIONS)
    check_choice("schedule", schedule, SCHEDULES)
    check_choice("scaling", scaling, SCALINGS)
    check_noise(noise, seed)
    check_whole("num_steps", num_steps, 1)
    check_fraction("alpha", alpha)
    check_nonnegative("S_churn", S_churn)
    check_nonnegative("S_noise", S_noise)
    if not 0 < epsilon_s < 1:
        raise ValueError(f"epsilon_s={epsilon_s!r}: expected 0 < epsilon_s < 1")
    lows = {"vp": vp_sigma(*VP_BETAS, epsilon_s), "ve": 0.02}
    highs = {"vp": vp_sigma(*VP_BETAS, 1.0), "ve": 100.0, "iddpm": 81.0}
    low = lows.get(discretization, 0.002) if sigma_min is None else sigma_min
    high = highs.get(discretization, 80.0) if sigma_max is None else sigma_max
    low, high = max(float(low), float(net.sigma_min)), min(float(high), float(net.sigma_max))
    if not 0 < low < high < math.inf:
        raise ValueError(
            f"sigma_min={sigma_min!r}, sigma_max={sigma_max!r}: with the network's own range they "
            f"leave [{low!r}, {high!r}]; expected 0 < sigma_min < sigma_max"
        )

    def rounded(sigmas: list[float]) -> list[float]:
        values = torch.tensor(sigmas, dtype=torch.float64, device=latents.device)
        found: list[float] = (
            torch.as_tensor(net.round_sigma(values), device="cpu").double().tolist()
        )
        return found

    process = Process(schedule, scaling, vp_betas(low, high, epsilon_s))
    steps = sigma_steps(discretization, num_steps, low, high, rho, epsilon_s, C_1, C_2, M)
    levels = rounded(steps)
    gamma = min(S_churn / num_steps, math.sqrt(2) - 1)
    gammas = [gamma if S_min <= level <= S_max else 0.0 for level in levels]
    if any(gammas):
        up = rounded([level * (1 + g) for level, g in zip(levels, gammas, strict=True)])
        up = [u if g else s for s, u, g in zip(levels, up, gammas, strict=True)]
    else:
        up = levels
    # A churned level that rounds below the step's own is ignored: noise cannot be taken away.
    times = [process.time(level) for level in levels]
    churned = [t if u <= s else process.time(u) for t, s, u in zip(times, levels, up, strict=True)]
    x = latents.to(dtype)
    if not x.shape[0]:
        return x
    raised = {s for s, u in zip(levels, up, strict=True) if u > s}
    # Rounded levels may be equal: only churn moves the state there.
    taken = moving_steps((*levels, 0.0), raised.__contains__)
    sampler = None if noise == "contract" else lambda start, end: randn_like(x)
    return run(
        heun,
        lambda x, sigma: net(x, sigma[0], class_labels),
        x * levels[0],
        [*levels, 0.0],
        disable=True,
        noise=NoiseSource(noise, seed, sampler),
        unused=before_each_step,
        moves=raised.__contains__,
        drawn_in_place=1,
        options={
            "process": process,
            "times": (*(times[i] for i in taken), 0.0),
            "churned": tuple(churned[i] for i in taken),
            "euler": solver == "euler",
            "alpha": float(alpha),
            "s_noise": float(S_noise),
        },
    )
