"""How networks are told the time and the label."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn


class Embedding(nn.Module):
    """Time and label as one vector [B, width]: cosines and sines of t, an MLP, and a table.

    time_scale: what t is divided by, so that it comes to about 1. second_time: the network is
    called with two times (average velocities).
    """

    FREQUENCIES: ClassVar[int] = 16

    def __init__(
        self, width: int, classes: int = 0, time_scale: float = 1.0, second_time: bool = False
    ) -> None:
        super().__init__()
        self.classes, self.time_scale, self.second_time = classes, time_scale, second_time
        inputs = 2 * self.FREQUENCIES * (2 if second_time else 1)
        self.time = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width) if classes else None

    def forward(self, t: Tensor, labels: Tensor | None, r: Tensor | None = None) -> Tensor:
        """[B, width], after a SiLU.

        Raises:
            ValueError: for labels of a network without classes, or a second time that is missing.
        """
        if (r is not None) != self.second_time:
            state = "two times" if self.second_time else "one time"
            raise ValueError(f"r: this network is called with {state}")
        dtype = next(self.time.parameters()).dtype
        waves = [self._waves(t.to(dtype))]
        if r is not None:
            waves.append(self._waves(r.to(dtype)))
        total: Tensor = self.time(torch.cat(waves, dim=1))
        if self.label is None:
            if labels is not None:
                raise ValueError("labels: this network knows no classes; make it with classes=...")
        else:
            if labels is None:
                labels = torch.full((len(t),), self.classes, device=t.device)
            total = total + self.label(labels)
        return nn.functional.silu(total)

    def _waves(self, t: Tensor) -> Tensor:
        frequencies = torch.arange(1, self.FREQUENCIES + 1, device=t.device) * (math.pi / 2)
        angles = t[:, None] / self.time_scale * frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1)
