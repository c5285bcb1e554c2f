"""`ModelWrapper`, from which models are derived."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class ModelWrapper(nn.Module):
    """A network called as wrapper(x=, t=, **extras); override `forward` where it wants others.

    Args:
        model: called as model(x=x, t=t, **extras).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, t: Tensor, **extras: Any) -> Tensor:
        """The velocity [B, ...]."""
        velocity: Tensor = self.model(x=x, t=t, **extras)
        return velocity
