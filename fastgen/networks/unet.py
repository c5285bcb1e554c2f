"""U-Nets for signals [B, C, L] and images [B, C, H, W]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastgen.networks.embedding import Embedding
from fastgen.networks.network import Network, register

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d}
GROUPS = 8


class Block(nn.Module):
    """Two convolutions around a modulation by the embedding, added to the input."""

    def __init__(self, dims: int, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[dims]
        self.first = nn.Sequential(
            nn.GroupNorm(_groups(inputs), inputs), nn.SiLU(), convolution(inputs, outputs, 3, 1, 1)
        )
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.norm = nn.GroupNorm(_groups(outputs), outputs, affine=False)
        self.second = convolution(outputs, outputs, 3, 1, 1)
        self.skip = convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """[B, outputs, ...] of x [B, inputs, ...]."""
        wide = self.modulation(embedding).reshape(len(x), -1, *[1] * (x.ndim - 2))
        scale, shift = wide.chunk(2, dim=1)
        h = self.norm(self.first(x)) * (1 + scale) + shift
        result: Tensor = self.skip(x) + self.second(functional.silu(h))
        return result


class Attention(nn.Module):
    """Self-attention over all positions, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_groups(channels), channels)
        self.inward = nn.Linear(channels, 3 * channels)
        self.outward = nn.Linear(channels, channels)
        self.heads = max(1, channels // 32)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ...] of x [B, C, ...]."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        batch, length, channels = tokens.shape
        split = self.inward(tokens).reshape(batch, length, 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.outward(mixed.transpose(1, 2).reshape(batch, length, channels))
        return x + out.transpose(1, 2).reshape(x.shape)


@register
class UNet(Network):
    """Blocks at falling resolutions and back, with skips between equals; attention at the lowest.

    channels: of the data. width: channels at full resolution. multipliers: of the width, one for
    each resolution; every one after the first is half the size of the one before, so that lengths
    must be multiples of 2 ** (len(multipliers) - 1). dims: 1 for signals, 2 for images. outputs:
    channels of the output, if not those of the data (learned variances take twice as many). After
    Ronneberger et al. 2015 and Ho et al. 2020 (arXiv 2006.11239).
    """

    def __init__(
        self,
        channels: int = 1,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        dims: int = 2,
        outputs: int | None = None,
        classes: int = 0,
        time_scale: float = 1.0,
        second_time: bool = False,
    ) -> None:
        super().__init__()
        if dims not in CONVOLUTIONS:
            raise ValueError(f"dims={dims!r}: expected 1 or 2")
        self.config = {
            "channels": channels,
            "width": width,
            "multipliers": list(multipliers),
            "blocks": blocks,
            "dims": dims,
            "outputs": outputs,
            "classes": classes,
            "time_scale": time_scale,
            "second_time": second_time,
        }
        self.classes, self.dims = classes, dims
        convolution, size = CONVOLUTIONS[dims], 4 * width
        self.embedding = Embedding(size, classes, time_scale, second_time)
        self.inward = convolution(channels, width, 3, 1, 1)
        self.down, self.up, self.shrink = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        here, skips = width, []
        for level, factor in enumerate(multipliers):
            if level:
                self.shrink.append(convolution(here, here, 3, 2, 1))
            stack = nn.ModuleList()
            for _ in range(blocks):
                stack.append(Block(dims, here, width * factor, size))
                here = width * factor
                skips.append(here)
            self.down.append(stack)
        self.middle, self.attention = Block(dims, here, here, size), Attention(here)
        for factor in reversed(multipliers):
            stack = nn.ModuleList()
            for _ in range(blocks):
                stack.append(Block(dims, here + skips.pop(), width * factor, size))
                here = width * factor
            self.up.append(stack)
        self.outward = nn.Sequential(
            nn.GroupNorm(_groups(here), here),
            nn.SiLU(),
            convolution(here, channels if outputs is None else outputs, 3, 1, 1),
        )

    def forward(
        self, x: Tensor, t: Tensor, r: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """[B, outputs, ...] at x [B, channels, ...], t [B]."""
        factor = 2 ** (len(self.down) - 1)
        if x.ndim != 2 + self.dims or any(n % factor for n in x.shape[2:]):
            raise ValueError(
                f"x: expected [B, C, {self.dims} lengths that are multiples of {factor}], got "
                f"{tuple(x.shape)}"
            )
        embedding = self.embedding(t, labels, r)
        h, skips = self.inward(x), []
        for level, stack in enumerate(self.down):
            h = self.shrink[level - 1](h) if level else h
            for block in _blocks(stack):
                h = block(h, embedding)
                skips.append(h)
        h = self.attention(self.middle(h, embedding))
        for level, stack in enumerate(self.up):
            h = functional.interpolate(h, scale_factor=2.0) if level else h
            for block in _blocks(stack):
                h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        result: Tensor = self.outward(h)
        return result


def _blocks(stack: nn.Module) -> nn.ModuleList:
    assert isinstance(stack, nn.ModuleList)
    return stack


def _groups(channels: int) -> int:
    return GROUPS if channels % GROUPS == 0 else 1
