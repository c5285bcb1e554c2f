"""Copies to a device that do not make the host wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def upload(host: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device: from pinned memory to GPUs, so that the copy is queued like a kernel.

    The allocator of pinned memory keeps the block until the copy is done.
    """
    if device.type == "cuda" and host.device.type == "cpu" and host.numel():
        return host.pin_memory().to(device, non_blocking=True)
    return host.to(device)


def integers(values: Sequence[int], device: torch.device) -> Tensor:
    """Signed 64-bit integers on the device. A single one is written by a kernel, not copied."""
    if len(values) == 1:
        return torch.full((1,), values[0], dtype=torch.int64, device=device)
    return upload(torch.tensor(values, dtype=torch.int64), device)


def check_device(name: str, device: Any) -> torch.device:
    """The device, or an error if there is none of that name."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(
            f"{name}={device!r}: expected a device such as 'cpu' or 'cuda:0'"
        ) from None
