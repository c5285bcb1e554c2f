"""Training noise levels and averages of weights: what of `k_diffusion.utils` training calls."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.common.checks import check_at_least

Shape = Sequence[int]
Device = torch.device | str
stratified_settings = threading.local()


def stratified_uniform(
    shape: Shape,
    group: int = 0,
    groups: int = 1,
    dtype: torch.dtype | None = None,
    device: Device | None = None,
) -> Tensor:
    """Uniform numbers, one in each of the last axis' strata, of which this group has every n-th.

    Raises:
        ValueError: for a group that there is not.
    """
    check_at_least("groups", groups, 1)
    if not 0 <= group < groups:
        raise ValueError(f"group={group}: expected one of 0 to {groups - 1}")
    n = shape[-1] * groups
    offsets = torch.arange(group, n, groups, dtype=dtype, device=device)
    return (offsets + torch.rand(*shape, dtype=dtype, device=device)) / n


@contextmanager
def enable_stratified(group: int = 0, groups: int = 1, disable: bool = False) -> Iterator[None]:
    """Within: the functions here draw stratified samples, those of this group."""
    before = dict(vars(stratified_settings))
    vars(stratified_settings).update(group=group, groups=groups, disable=disable)
    try:
        yield
    finally:
        vars(stratified_settings).clear()
        vars(stratified_settings).update(before)


@contextmanager
def enable_stratified_accelerate(accelerator: Any, disable: bool = False) -> Iterator[None]:
    """`enable_stratified` over accelerate's processes and accumulated steps."""
    count = accelerator.gradient_state.num_steps
    group = accelerator.process_index * count + accelerator.step % count
    with enable_stratified(group, accelerator.num_processes * count, disable):
        yield


def stratified_with_settings(
    shape: Shape, dtype: torch.dtype | None = None, device: Device | None = None
) -> Tensor:
    """Uniform numbers, stratified inside of `enable_stratified`."""
    own = stratified_settings
    if getattr(own, "disable", True):
        return torch.rand(*shape, dtype=dtype, device=device)
    return stratified_uniform(shape, own.group, own.groups, dtype, device)


def rand_log_normal(
    shape: Shape,
    loc: float = 0.0,
    scale: float = 1.0,
    device: Device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """exp(loc + scale z), z normal (Karras et al. 2022, arXiv 2206.00364, table 1)."""
    u = stratified_with_settings(shape, dtype, device) * (1 - 2e-7) + 1e-7
    return torch.exp(loc + scale * math.sqrt(2) * torch.erfinv(2 * u - 1))


def rand_log_logistic(
    shape: Shape,
    loc: float = 0.0,
    scale: float = 1.0,
    min_value: float = 0.0,
    max_value: float = math.inf,
    device: Device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """exp(loc + scale logit(u)), between min_value and max_value."""
    ends = torch.tensor([min_value, max_value], dtype=torch.float64, device=device)
    low, high = torch.sigmoid((ends.log() - loc) / scale)
    u = stratified_with_settings(shape, torch.float64, device) * (high - low) + low
    return torch.exp(u.logit() * scale + loc).to(dtype)


def rand_log_uniform(
    shape: Shape,
    min_value: float,
    max_value: float,
    device: Device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Even in log sigma, between min_value and max_value."""
    low, high = math.log(min_value), math.log(max_value)
    return (stratified_with_settings(shape, dtype, device) * (high - low) + low).exp()


def rand_v_diffusion(
    shape: Shape,
    sigma_data: float = 1.0,
    min_value: float = 0.0,
    max_value: float = math.inf,
    device: Device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """sigma_data tan(angle), the angle even: the levels of v-diffusion, truncated."""
    low, high = (math.atan(v / sigma_data) for v in (min_value, max_value))
    angles = stratified_with_settings(shape, dtype, device) * (high - low) + low
    return torch.tan(angles) * sigma_data


def rand_cosine_interpolated(
    shape: Shape,
    image_d: float,
    noise_d_low: float,
    noise_d_high: float,
    sigma_data: float = 1.0,
    min_value: float = 1e-3,
    max_value: float = 1e3,
    device: Device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Shifted cosine schedules, interpolated (Hoogeboom et al. 2023, arXiv 2301.11093, eq. 9)."""
    ends = [-2 * math.log(v / sigma_data) for v in (max_value, min_value)]  # of log SNR
    t = stratified_with_settings(shape, dtype, device)
    low, high = (
        _shifted_cosine(t, 2 * math.log(d / image_d), ends) for d in (noise_d_low, noise_d_high)
    )
    return torch.exp(-torch.lerp(low, high, t) / 2) * sigma_data


def _shifted_cosine(t: Tensor, shift: float, ends: list[float]) -> Tensor:
    """Log SNR of the cosine schedule, plus a shift, from ends[0] to ends[1]."""
    first, last = (math.atan(math.exp(-(end - shift) / 2)) for end in ends)
    return shift - 2 * torch.log(torch.tan(first + t * (last - first)))


def rand_split_log_normal(
    shape: Shape,
    loc: float,
    scale_1: float,
    scale_2: float,
    device: Device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """exp(loc - scale_1 |z|) or exp(loc + scale_2 |z|), in the ratio of the scales."""
    z = torch.randn(*shape, device=device, dtype=dtype).abs()
    below = torch.rand(*shape, device=device, dtype=dtype) < scale_1 / (scale_1 + scale_2)
    return torch.exp(torch.where(below, loc - scale_1 * z, loc + scale_2 * z))


@torch.no_grad()
def ema_update(model: nn.Module, averaged_model: nn.Module, decay: float) -> None:
    """averaged = decay averaged + (1 - decay) model; buffers are copied.

    Raises:
        ValueError: if their names differ.
    """
    for name in ("named_parameters", "named_buffers"):
        own, averages = (dict(getattr(m, name)()) for m in (model, averaged_model))
        if own.keys() != averages.keys():
            raise ValueError(
                f"averaged_model: its {name} are others: {sorted(own.keys() ^ averages.keys())}"
            )
        for key, value in own.items():
            if name == "named_buffers":
                averages[key].copy_(value)
            else:
                averages[key].lerp_(value, 1 - decay)


def ema_update_dict(
    values: dict[str, Tensor], updates: Mapping[str, Tensor], decay: float
) -> dict[str, Tensor]:
    """Averages of named numbers: ``values``, updated; new names are taken over."""
    for key, value in updates.items():
        values[key] = values[key] * decay + value * (1 - decay) if key in values else value
    return values


class EMAWarmup:
    """The decay 1 - (1 + n / inv_gamma)^-power after n steps, within bounds.

    Args:
        inv_gamma, power: see above; 1 and 1 give the mean of all steps.
        min_value, max_value: bounds of the decay.
        start_at: the step at which averages begin.
        last_epoch: the steps made.
    """

    def __init__(
        self,
        inv_gamma: float = 1.0,
        power: float = 1.0,
        min_value: float = 0.0,
        max_value: float = 1.0,
        start_at: int = 0,
        last_epoch: int = 0,
    ) -> None:
        self.inv_gamma, self.power = inv_gamma, power
        self.min_value, self.max_value = min_value, max_value
        self.start_at, self.last_epoch = start_at, last_epoch

    def state_dict(self) -> dict[str, Any]:
        """All there is to it."""
        return dict(vars(self))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        vars(self).update(state_dict)

    def get_value(self) -> float:
        """The decay now."""
        n = max(0, self.last_epoch - self.start_at)
        decay: float = 1 - (1 + n / self.inv_gamma) ** -self.power
        return min(self.max_value, max(self.min_value, decay))

    def step(self) -> None:
        """Count a step."""
        self.last_epoch += 1
