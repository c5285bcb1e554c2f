"""Small networks of the kinds that samplers meet: points, action chunks, images, latents."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def embedding(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of times [B], [B, width]."""
    rates = torch.exp(torch.arange(width // 2, device=t.device) * (-math.log(1e4) / (width // 2)))
    angles = 1000.0 * t[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


class Mlp(nn.Module):
    """Points [B, 2]: three hidden layers of 64."""

    def __init__(self, size: int = 2, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(size + 1, width), nn.SELU()]
        for _ in range(2):
            layers += [nn.Linear(width, width), nn.SELU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, size))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """[B, 2]."""
        y: Tensor = self.layers(torch.cat([x, t[:, None].to(x.dtype)], 1))
        return y


class Block(nn.Module):
    """Two convolutions around a shift by the time."""

    def __init__(self, inside: int, outside: int, time: int, axes: int) -> None:
        super().__init__()
        convolution = nn.Conv1d if axes == 1 else nn.Conv2d
        self.first = convolution(inside, outside, 3, padding=1)
        self.second = convolution(outside, outside, 3, padding=1)
        self.skip = convolution(inside, outside, 1)
        self.norm, self.time = nn.GroupNorm(8, outside), nn.Linear(time, outside)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """[B, outside, ...]."""
        h = functional.silu(self.norm(self.first(x)))
        h = h + self.time(e).reshape(*h.shape[:2], *[1] * (h.ndim - 2))
        y: Tensor = self.second(functional.silu(h)) + self.skip(x)
        return y


class UNet(nn.Module):
    """Two levels and a skip. axes 1: actions [B, length, size]; 2: images [B, size, H, W]."""

    def __init__(self, size: int, width: int, axes: int) -> None:
        super().__init__()
        self.axes, time = axes, 4 * width
        self.time = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        self.width = width
        self.down = Block(size, width, time, axes)
        self.middle = Block(width, 2 * width, time, axes)
        self.up = Block(3 * width, width, time, axes)
        self.out = (nn.Conv1d if axes == 1 else nn.Conv2d)(width, size, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Of x's shape."""
        h = x.transpose(1, 2) if self.axes == 1 else x
        e = self.time(embedding(t, self.width).to(x.dtype))
        high = self.down(h, e)
        pool = functional.avg_pool1d if self.axes == 1 else functional.avg_pool2d
        low = self.middle(pool(high, 2), e)
        joined = torch.cat([functional.interpolate(low, scale_factor=2.0), high], 1)
        y: Tensor = self.out(self.up(joined, e))
        return y.transpose(1, 2).contiguous() if self.axes == 1 else y


class Transformer(nn.Module):
    """Patches of 2 x 2 latents, adaptive layer norms, as in DiT (Peebles and Xie 2022)."""

    def __init__(self, channels: int = 4, width: int = 192, depth: int = 4, heads: int = 3) -> None:
        super().__init__()
        self.heads, self.channels = heads, channels
        self.patch = nn.Conv2d(channels, width, 2, 2)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU())
        self.shifts = nn.ModuleList([nn.Linear(width, 6 * width) for _ in range(depth)])
        self.attends = nn.ModuleList([nn.Linear(width, 3 * width) for _ in range(depth)])
        self.joins = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.layers = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
                for _ in range(depth)
            ]
        )
        self.out = nn.ConvTranspose2d(width, channels, 2, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Of x's shape."""
        h = self.patch(x)
        batch, width, rows, columns = h.shape
        h = h.flatten(2).transpose(1, 2)
        e = self.time(embedding(t, width).to(x.dtype))
        for shift, attend, join, layer in zip(
            self.shifts, self.attends, self.joins, self.layers, strict=True
        ):
            a, b, c, d, g, k = shift(e)[:, None].chunk(6, 2)
            q = attend(functional.layer_norm(h, (width,)) * (1 + a) + b)
            parts = q.reshape(batch, -1, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
            joined = functional.scaled_dot_product_attention(*parts.unbind(0))
            h = h + c * join(joined.transpose(1, 2).reshape(batch, -1, width))
            h = h + k * layer(functional.layer_norm(h, (width,)) * (1 + d) + g)
        y: Tensor = self.out(h.transpose(1, 2).reshape(batch, width, rows, columns))
        return y


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 256": (Mlp, (256, 2)),
    "MLP 65536": (Mlp, (65536, 2)),
    "policy": (lambda: UNet(14, 64, 1), (1, 16, 14)),
    "U-Net": (lambda: UNet(3, 64, 2), (64, 3, 32, 32)),
    "transformer": (Transformer, (16, 4, 32, 32)),
}
