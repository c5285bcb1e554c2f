"""Copies to a device that do not make the host wait."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
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
    return upload(torch.tensor(values, dtype=torch.int64, device="cpu"), device)


def current_stream(device: torch.device) -> int:
    """The number of the stream that work on a device is queued on now; 0 where there are none."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.current_stream(device).cuda_stream)


class Turns:
    """Memory that is used on one stream after another: each waits for the work of the one before.

    On one stream, work is in order by itself, and nothing is queued.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last: torch.cuda.Stream | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy has memory of its own."""
        return {"_device": self._device, "_last": None}

    def take(self) -> None:
        """Let what is queued on the current stream from now on follow what was queued before."""
        if self._device.type != "cuda":
            return
        stream = torch.cuda.current_stream(self._device)
        if self._last is not None and self._last != stream:
            stream.wait_stream(self._last)
        self._last = stream


def check_device(name: str, device: Any) -> torch.device:
    """The device, or a ValueError if this machine has none of that name, and torch's reason."""
    try:
        return _existing(device)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{name}={device!r}: expected a device of this machine, such as 'cpu' ({reason})"
        ) from error


@lru_cache(maxsize=64)
def _existing(device: torch.device | str | int) -> torch.device:
    found = torch.device(device)
    torch.empty(0, device=found)
    return found
