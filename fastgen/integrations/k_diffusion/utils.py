"""Noise levels and the conversions between them that code around k-diffusion calls."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.integrations.common.names import Refused
from fastgen.integrations.k_diffusion.training import (
    EMAWarmup,
    ema_update,
    ema_update_dict,
    enable_stratified,
    enable_stratified_accelerate,
    rand_cosine_interpolated,
    rand_log_logistic,
    rand_log_normal,
    rand_log_uniform,
    rand_split_log_normal,
    rand_v_diffusion,
    stratified_uniform,
    stratified_with_settings,
)

FILES = "it is of files and pictures, not of sampling; import it from k_diffusion.utils"
RATES = "take torch.optim.lr_scheduler.LambdaLR, or import it from k_diffusion.utils"
__getattr__ = Refused(
    __name__,
    {
        "CSVLogger": FILES,
        "ConstantLRWithWarmup": RATES,
        "ExponentialLR": RATES,
        "FolderOfImages": FILES,
        "InverseLR": RATES,
        "download_file": FILES,
        "from_pil_image": FILES,
        "get_safetensors_metadata": FILES,
        "hf_datasets_augs_helper": FILES,
        "n_params": "it is sum(p.numel() for p in module.parameters())",
        "tf32_mode": "set allow_tf32 of torch.backends.cuda.matmul and of torch.backends.cudnn",
        "to_pil_image": FILES,
    },
)

Device = torch.device | str


def append_dims(x: Tensor, target_dims: int) -> Tensor:
    """x with axes of size 1 appended until it has ``target_dims`` axes.

    Raises:
        ValueError: if it has more already.
    """
    if x.ndim > target_dims:
        raise ValueError(f"x: it has {x.ndim} axes already, target_dims={target_dims}")
    return x.reshape(x.shape + (1,) * (target_dims - x.ndim))


def append_zero(x: Tensor) -> Tensor:
    """The noise levels [n] and a last one of 0, at which the sample is data: [n + 1]."""
    return torch.cat([x, x.new_zeros([1])])


def get_sigmas_karras(
    n: int, sigma_min: float, sigma_max: float, rho: float = 7.0, device: Device = "cpu"
) -> Tensor:
    """Even in sigma^(1 / rho) from sigma_max to sigma_min, then 0: [n + 1].

    Karras et al. 2022 (arXiv 2206.00364), eq. 5.
    """
    ramp = torch.linspace(0, 1, n, device="cpu")
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return append_zero((high + ramp * (low - high)) ** rho).to(device)


def get_sigmas_exponential(
    n: int, sigma_min: float, sigma_max: float, device: Device = "cpu"
) -> Tensor:
    """Even in log sigma from sigma_max to sigma_min, then 0: [n + 1]."""
    return append_zero(
        torch.linspace(math.log(sigma_max), math.log(sigma_min), n, device="cpu").exp()
    ).to(device)


def get_sigmas_polyexponential(
    n: int, sigma_min: float, sigma_max: float, rho: float = 1.0, device: Device = "cpu"
) -> Tensor:
    """log sigma falls as u^rho, u even from 1 to 0, then sigma = 0: [n + 1]."""
    ramp = torch.linspace(1, 0, n, device="cpu") ** rho
    high, low = math.log(sigma_max), math.log(sigma_min)
    return append_zero(torch.exp(ramp * (high - low) + low)).to(device)


def get_sigmas_vp(
    n: int,
    beta_d: float = 19.9,
    beta_min: float = 0.1,
    eps_s: float = 1e-3,
    device: Device = "cpu",
) -> Tensor:
    """sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1) at even t from 1 to eps_s, then 0: [n + 1].

    The noise-to-signal ratio of the linear VP process (Song et al. 2021, arXiv 2011.13456).
    """
    t = torch.linspace(1, eps_s, n, device="cpu")
    return append_zero(torch.sqrt(torch.exp(beta_d * t**2 / 2 + beta_min * t) - 1)).to(device)


def to_d(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    """dx/dsigma of the probability flow, (x - denoised) / sigma."""
    return (x - denoised) / append_dims(sigma, x.ndim)


def get_ancestral_step(sigma_from: Any, sigma_to: Any, eta: float = 1.0) -> tuple[Any, Any]:
    """(sigma_down, sigma_up): where to step down to, and the noise that leads back to sigma_to.

    sigma_up = min(sigma_to, eta sigma_to sqrt(1 - sigma_to^2 / sigma_from^2)) and
    sigma_down^2 = sigma_to^2 - sigma_up^2, for numbers or tensors of no axes.
    """
    if not eta:
        return sigma_to, 0.0
    left = 1 - (sigma_to / sigma_from) ** 2
    sigma_up = min(sigma_to, eta * sigma_to * left**0.5)
    return ((sigma_to - sigma_up) * (sigma_to + sigma_up)) ** 0.5, sigma_up


@contextmanager
def train_mode(model: nn.Module, mode: bool = True) -> Iterator[nn.Module]:
    """Within: the model and its modules are in training mode, or not; then as they were."""
    before = [(module, module.training) for module in model.modules()]
    try:
        yield model.train(mode)
    finally:
        for module, training in before:
            module.training = training


def eval_mode(model: nn.Module) -> AbstractContextManager[nn.Module]:
    """`train_mode` with mode=False."""
    return train_mode(model, False)


__all__ = [
    "EMAWarmup",
    "append_dims",
    "append_zero",
    "ema_update",
    "ema_update_dict",
    "enable_stratified",
    "enable_stratified_accelerate",
    "eval_mode",
    "get_ancestral_step",
    "get_sigmas_exponential",
    "get_sigmas_karras",
    "get_sigmas_polyexponential",
    "get_sigmas_vp",
    "rand_cosine_interpolated",
    "rand_log_logistic",
    "rand_log_normal",
    "rand_log_uniform",
    "rand_split_log_normal",
    "rand_v_diffusion",
    "stratified_uniform",
    "stratified_with_settings",
    "to_d",
    "train_mode",
]
