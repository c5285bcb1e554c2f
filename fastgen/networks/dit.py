"""A diffusion transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastgen.networks.embedding import Embedding
from fastgen.networks.network import Network, register


class TransformerBlock(nn.Module):
    """Attention and MLP, each scaled, shifted and gated by the embedding; the identity at first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)
        )
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """[B, tokens, width]."""
        batch, length, width = x.shape
        scale, shift, gate, scale_mlp, shift_mlp, gate_mlp = self.modulation(embedding)[
            :, None
        ].chunk(6, dim=2)
        h = functional.layer_norm(x, (width,)) * (1 + scale) + shift
        split = self.inward(h).reshape(batch, length, 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        x = x + gate * self.outward(mixed.reshape(batch, length, width))
        h = functional.layer_norm(x, (width,)) * (1 + scale_mlp) + shift_mlp
        result: Tensor = x + gate_mlp * self.mlp(h)
        return result


@register
class DiT(Network):
    """Patches as tokens through transformer blocks with adaLN-zero.

    size: height and width of the images. patch: side of a patch, a divisor of the size. Peebles and
    Xie 2023 (arXiv 2212.09748), with learned positions.
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 8,
        patch: int = 2,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        outputs: int | None = None,
        classes: int = 0,
        time_scale: float = 1.0,
        second_time: bool = False,
    ) -> None:
        super().__init__()
        if size % patch or width % heads:
            raise ValueError(
                f"size={size}, patch={patch}, width={width}, heads={heads}: expected patch to "
                "divide size and heads to divide width"
            )
        self.config = {
            "channels": channels,
            "size": size,
            "patch": patch,
            "width": width,
            "depth": depth,
            "heads": heads,
            "outputs": outputs,
            "classes": classes,
            "time_scale": time_scale,
            "second_time": second_time,
        }
        self.classes, self.patch, self.tokens = classes, patch, size // patch
        self.out_channels = channels if outputs is None else outputs
        self.embedding = Embedding(width, classes, time_scale, second_time)
        self.inward = nn.Conv2d(channels, width, patch, patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, self.tokens**2, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.outward = nn.Linear(width, patch**2 * self.out_channels)
        for layer in (self.modulation, self.outward):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, x: Tensor, t: Tensor, r: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """[B, outputs, size, size] at x [B, channels, size, size], t [B]."""
        side = self.tokens * self.patch
        if x.shape[2:] != (side, side):
            raise ValueError(f"x: expected [B, C, {side}, {side}], got {tuple(x.shape)}")
        embedding = self.embedding(t, labels, r)
        h = self.inward(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            h = block(h, embedding)
        scale, shift = self.modulation(embedding)[:, None].chunk(2, dim=2)
        h = self.outward(functional.layer_norm(h, h.shape[2:]) * (1 + scale) + shift)
        pieces: Tensor = h.reshape(
            len(x), self.tokens, self.tokens, self.out_channels, *[self.patch] * 2
        )
        return pieces.permute(0, 3, 1, 4, 2, 5).reshape(len(x), self.out_channels, side, side)
