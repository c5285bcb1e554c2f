"""Networks for points and small pictures: a plain MLP and a residual one modulated by time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastgen.common.checks import check_at_least, check_choice
from fastgen.common.typed import typed
from fastgen.networks.embedding import Embedding
from fastgen.networks.network import Network, register

ACTIVATIONS = {"selu": nn.SELU, "silu": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU}


@register
class MLP(Network):
    """Hidden layers on (x, t), t concatenated: the network of the 2-D tables of flow matching.

    shape: of one sample. widths: of the hidden layers. outputs: how many of x's size.
    """

    @typed
    def __init__(
        self,
        shape: Sequence[int] = (2,),
        widths: Sequence[int] = (64, 64, 64),
        activation: str = "selu",
        outputs: int = 1,
        classes: int = 0,
    ) -> None:
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        check_at_least("outputs", outputs, 1)
        check_at_least("classes", classes, 0)
        self.config = {
            "shape": list(shape),
            "widths": list(widths),
            "activation": activation,
            "outputs": outputs,
            "classes": classes,
        }
        self.classes, size = classes, math.prod(shape)
        sizes = [size + 1 + classes, *widths]
        layers: list[nn.Module] = []
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], outputs * size))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, ...] at x [B, ...], t [B]; with several outputs they follow along axis 1."""
        columns = [x.flatten(1), t.to(x.dtype)[:, None]]
        if self.classes:
            none = torch.full((len(x),), self.classes, device=x.device)
            given = none if labels is None else labels.to(x.device)
            one_hot = functional.one_hot(given, self.classes + 1)
            columns.append(one_hot[:, : self.classes].to(x.dtype))
        elif labels is not None:
            raise ValueError("labels: this network knows no classes; make it with classes=...")
        result: Tensor = self.layers(torch.cat(columns, dim=1))
        return result.reshape(len(x), -1, *x.shape[2:])


@register
class ModulatedMLP(Network):
    """Residual blocks on flattened samples, modulated by time and label.

    h <- h + g * MLP((1 + a) * LayerNorm(h) + b), with (g, a, b) linear in the embedding of t and
    label: adaLN of Peebles and Xie 2023 (arXiv 2212.09748) without attention.
    """

    @typed
    def __init__(
        self,
        shape: Sequence[int] = (1, 8, 8),
        width: int = 256,
        blocks: int = 3,
        classes: int = 0,
        time_scale: float = 1.0,
        second_time: bool = False,
    ) -> None:
        super().__init__()
        self.config = {
            "shape": list(shape),
            "width": width,
            "blocks": blocks,
            "classes": classes,
            "time_scale": time_scale,
            "second_time": second_time,
        }
        self.classes, size = classes, math.prod(shape)
        self.embedding = Embedding(width, classes, time_scale, second_time)
        self.modulation = nn.Linear(width, 3 * width * blocks)
        self.inward = nn.Linear(size, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            for _ in range(blocks)
        )
        self.outward = nn.Linear(width, size)

    def forward(
        self, x: Tensor, t: Tensor, r: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """[B, ...] at x [B, ...], t [B], labels [B] (``classes``: not given)."""
        embedding = self.embedding(t, labels, r)
        width = embedding.shape[1:]
        h = self.inward(x.flatten(1))
        modulation = self.modulation(embedding).chunk(3 * len(self.blocks), dim=1)
        for block, gain, scale, shift in zip(
            self.blocks, modulation[0::3], modulation[1::3], modulation[2::3], strict=True
        ):
            h = h + gain * block(functional.layer_norm(h, width) * (1 + scale) + shift)
        result: Tensor = self.outward(functional.layer_norm(h, width))
        return result.reshape(x.shape)
