"""The order of axes in memory: images whose channels lie side by side (channels_last)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def in_channels_last(x: Any) -> bool:
    """Whether a tensor [B, C, ...] lies in memory as [B, ..., C], and not as [B, C, ...] too."""
    if not isinstance(x, Tensor) or x.ndim not in FORMATS or x.is_contiguous():
        return False
    return x.is_contiguous(memory_format=FORMATS[x.ndim])


def gives_channels_last(net: Any) -> bool:
    """Whether its convolutions leave channels last: `net.to(memory_format=torch.channels_last)`."""
    return isinstance(net, nn.Module) and any(in_channels_last(p) for p in net.parameters())


def with_channels_last(x: Tensor) -> Tensor:
    """The same numbers with channels last in memory; what is no image or video as it is."""
    return x.contiguous(memory_format=FORMATS[x.ndim]) if x.ndim in FORMATS else x


def channels_behind(x: Tensor) -> Tensor:
    """[B, C, ...] as [B, ..., C], on the same memory."""
    return x.movedim(1, -1)


def channels_in_front(x: Tensor) -> Tensor:
    """[B, ..., C] as [B, C, ...], on the same memory."""
    return x.movedim(-1, 1)
