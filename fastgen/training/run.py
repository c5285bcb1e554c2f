"""What a trainer is to those that save it, put it back and validate it."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastgen.training.batch import Loss
from fastgen.training.engine import Engine
from fastgen.training.feed import Feed
from fastgen.training.scaling import Scaling
from fastgen.training.settings import Settings


class Run(Protocol):
    """The parts of a `fastgen.training.Trainer`."""

    engine: Engine
    feed: Feed
    network: nn.Module
    optimiser: torch.optim.Optimizer
    settings: Settings
    scaling: Scaling | None
    description: dict[str, Any]
    labels: Tensor | None
    classes: int
    step: int

    @property
    def average(self) -> nn.Module:
        """With averaged weights."""

    @property
    def loss(self) -> Loss:
        """Of a batch."""
