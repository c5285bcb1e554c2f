"""Scales of guidance: one number, one per sample, or a function of the time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import as_numbers, check_number
from fastgen.common.devices import upload
from fastgen.common.typed import shown
from fastgen.rules.rule import Time

Scale = float | Tensor | Callable[[float], float]


def check_scale(name: str, scale: Any) -> None:
    """Raise an error for what is no guidance scale: a finite number, floating [B], a function."""
    if isinstance(scale, Mapping):
        if not scale or not all(isinstance(key, str) for key in scale):
            raise ValueError(f"{name}={shown(scale)}: expected scales by the names of branches")
        for key, value in scale.items():
            if isinstance(value, Mapping):
                raise TypeError(f"{name}[{key!r}]={shown(value)}: expected a scale")
            check_scale(f"{name}[{key!r}]", value)
    elif isinstance(scale, Tensor):
        if scale.ndim != 1 or scale.is_complex():
            raise ValueError(
                f"{name}: expected a number or [B], got {scale.dtype} {tuple(scale.shape)}"
            )
    elif not callable(scale) and not math.isfinite(check_number(name, scale)):
        raise ValueError(f"{name}={scale!r}: expected a finite number, or one per sample [B]")


def at_time(scale: Scale, t: float) -> float:
    """The number that a scale is at time t."""
    if not callable(scale):
        assert not isinstance(scale, Tensor)
        return scale
    found = check_number("scale(t)", scale(t))
    if not math.isfinite(found):
        raise ValueError(f"scale: it is {found} at t={t:.6g}, expected a finite number")
    return found


def at_times(scale: Scale, t: Time) -> float | Tensor:
    """A scale at one time, or at that of each sample."""
    if isinstance(scale, Tensor) or not callable(scale):
        return scale
    if not isinstance(t, Tensor):
        return at_time(scale, t)
    return torch.tensor(
        [at_time(scale, time) for time in t.tolist()], dtype=torch.float64, device="cpu"
    )


def column(scale: Any, device: torch.device) -> Tensor:
    """A scale as float64 [B, 1] or [1, 1] on a device."""
    column = as_numbers("scale", scale).detach()
    return upload(column.reshape(-1, 1), device)
