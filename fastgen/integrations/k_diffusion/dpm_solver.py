"""DPM-Solver between two noise levels: a fixed number of evaluations, or error-controlled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgen.integrations.common.levels import Callback, Denoiser, progress_bar, run
from fastgen.integrations.common.noise import NoiseSampler, Seeds
from fastgen.integrations.common.recipes import Recipe, Span
from fastgen.integrations.k_diffusion.adaptive import DpmAdaptive, PidController
from fastgen.integrations.k_diffusion.choices import noise_source
from fastgen.integrations.k_diffusion.programs import dpm_fast


def _check_ends(sigma_min: float, sigma_max: float) -> tuple[float, float]:
    low, high = float(sigma_min), float(sigma_max)
    for name, value in (("sigma_min", low), ("sigma_max", high)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value!r}: expected a finite noise level > 0")
    return low, high


def _each_step(found: Recipe, levels: tuple[float, ...]) -> dict[int, Span]:
    """DPM-Solver-fast draws in every step."""
    return {stage: (levels[i], levels[i + 1]) for i, stage in enumerate(found.last)}


def sample_dpm_fast(
    model: Denoiser,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    n: int,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 0.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    *,
    noise: str = "torch",
    seed: Seeds | None = None,
) -> Tensor:
    """DPM-Solver-fast: n evaluations in steps of orders 3 and less, even in log sigma.

    Lu et al. 2022 (arXiv 2206.00927), app. D.3. Other arguments as in
    `fastgen.integrations.k_diffusion.samplers`; the callback's dictionary also has t and t_up,
    -log sigma.

    Raises:
        ValueError: for a noise level or n out of range, or eta with sigma_min > sigma_max.
    """
    low, high = _check_ends(sigma_min, sigma_max)
    if n < 1:
        raise ValueError(f"n={n!r}: expected at least 1 evaluation")
    if eta and low > high:
        raise ValueError(f"eta={eta!r}: expected 0 for steps that add noise")
    count = n // 3 + 1
    orders = [3] * (count - 2) + [2, 1] if n % 3 == 0 else [3] * (count - 1) + [n % 3]
    t = np.linspace(-math.log(high), -math.log(low), count + 1)
    levels = [high, *np.exp(-t[1:-1]).tolist(), low]

    def describe(i: int) -> dict[str, Any]:
        time = torch.tensor(t[i], dtype=torch.get_default_dtype(), device=x.device)
        return {"sigma": time.neg().exp(), "sigma_hat": time.neg().exp(), "t": time, "t_up": time}

    return run(
        dpm_fast,
        model,
        x,
        levels,
        extra_args,
        callback,
        disable,
        noise=noise_source(x, noise_sampler, noise, seed, extra_args),
        unused=_each_step,
        describe=describe,
        bar_of_evaluations=True,
        options={"orders": tuple(orders), "eta": eta, "s_noise": s_noise},
    )


def sample_dpm_adaptive(
    model: Denoiser,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    pcoeff: float = 0.0,
    icoeff: float = 1.0,
    dcoeff: float = 0.0,
    accept_safety: float = 0.81,
    eta: float = 0.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    return_info: bool = False,
    *,
    noise: str = "torch",
    seed: Seeds | None = None,
    per_sample: bool = False,
    max_steps: int | None = None,
) -> Any:
    """DPM-Solver-12 or -23 with the size of the steps in log sigma from an estimate of their error.

    A step gives x_low and x_high of orders ``order - 1`` and ``order``. Its error is the root mean
    square of (x_low - x_high) / max(atol, rtol max(|x_low|, |x_last|)), over the batch as in
    k-diffusion. With per_sample it is over each sample, whose steps then depend on it alone.

    Args:
        model: as in `fastgen.integrations.k_diffusion.samplers`.
        x: [B, ...] at noise level sigma_max.
        sigma_min: last noise level, above 0; larger than sigma_max for steps that add noise.
        sigma_max: first noise level.
        extra_args: passed to the model.
        callback: called after each attempted step with k-diffusion's dictionary; per sample its
            entries are tensors [B].
        disable: of tqdm's bar.
        order: 2 or 3.
        rtol: relative tolerance.
        atol: absolute tolerance.
        h_init: first step in log sigma.
        pcoeff: proportional coefficient of the controller.
        icoeff: integral coefficient.
        dcoeff: derivative coefficient.
        accept_safety: smallest factor by which the next step may grow for this one to count.
        eta: ancestral noise.
        s_noise: its factor.
        noise_sampler: where it comes from.
        return_info: whether to return (x, info), info the counts of steps, nfe, n_accept and
            n_reject; numpy arrays [B] with per_sample.
        noise: as in `fastgen.integrations.k_diffusion.samplers`.
        seed: of noise="contract".
        per_sample: whether samples step independently.
        max_steps: most attempted steps; k-diffusion sets no limit.

    Raises:
        ValueError: naming the argument that is out of range.
        RuntimeError: after max_steps, or where the error is not a number.
    """
    low, high = _check_ends(sigma_min, sigma_max)
    if order not in (2, 3):
        raise ValueError(f"order={order!r}: expected 2 or 3")
    if eta and low > high:
        raise ValueError(f"eta={eta!r}: expected 0 for steps that add noise")
    rows = x.shape[0] if per_sample else 1
    controller = PidController(
        rows, h_init, pcoeff, icoeff, dcoeff, 1.5 if eta else order, accept_safety
    )
    source = noise_source(x, noise_sampler, noise, seed, extra_args)
    work = DpmAdaptive(model, x, extra_args or {}, order, controller, source, eta, s_noise)
    bar = progress_bar(None, disable)
    result, info = work.integrate(
        -math.log(high), -math.log(low), rtol, atol, callback, bar, max_steps
    )
    if bar is not None:
        bar.close()
    return (result, info) if return_info else result
