"""The two small networks of the demonstration: a velocity field and a classifier."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastgen.demo.data import CLASSES

PIXELS = 64
FREQUENCIES = 16
FEATURES = 32


class DigitFlow(nn.Module):
    """Velocity u(x, t, label) on 8 x 8 images: residual blocks modulated by time and label.

    h <- h + g * MLP((1 + a) * LayerNorm(h) + b), with (g, a, b) linear in the embedding of t and
    label: adaLN of Peebles and Xie 2023 (arXiv 2212.09748) without attention.
    """

    def __init__(self, width: int = 256, blocks: int = 3) -> None:
        super().__init__()
        self.config = {"width": width, "blocks": blocks}
        self.time = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.label = nn.Embedding(CLASSES + 1, width)  # the last row: label not given
        self.modulation = nn.Linear(width, 3 * width * blocks)
        self.inward = nn.Linear(PIXELS, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            for _ in range(blocks)
        )
        self.outward = nn.Linear(width, PIXELS)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Velocity [B, 1, 8, 8] at x [B, 1, 8, 8], t [B], labels [B] (CLASSES: not given)."""
        if labels is None:
            labels = torch.full((len(x),), CLASSES, device=x.device)
        frequencies = torch.arange(1, FREQUENCIES + 1, device=x.device) * (math.pi / 2)
        angles = t[:, None].to(x.dtype) * frequencies
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        embedding = functional.silu(self.time(waves) + self.label(labels))
        width = embedding.shape[1:]
        h = self.inward(x.flatten(1))
        modulation = self.modulation(embedding).chunk(3 * len(self.blocks), dim=1)
        for block, gain, scale, shift in zip(
            self.blocks, modulation[0::3], modulation[1::3], modulation[2::3], strict=True
        ):
            h = h + gain * block(functional.layer_norm(h, width) * (1 + scale) + shift)
        velocity: Tensor = self.outward(functional.layer_norm(h, width))
        return velocity.reshape(x.shape)


class DigitFeatures(nn.Module):
    """A classifier and the features in which sets of digits are compared.

    Its hidden units see whether a picture is a digit but hardly any noise on it; the pixels see
    the noise, but a Gaussian of their mean and covariance would pass for digits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(PIXELS, 128), nn.SiLU(), nn.Linear(128, FEATURES), nn.Tanh()
        )
        self.classes = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10] of images [B, 1, 8, 8]."""
        logits: Tensor = self.classes(self.hidden(x))
        return logits

    def describe(self, x: Tensor) -> Tensor:
        """The 64 pixels and the 32 hidden units, [B, 96], of images [B, 1, 8, 8]."""
        return torch.cat([x.flatten(1), self.hidden(x)], dim=1)
