"""What a trainer is to those that save it, put it back and validate it."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastgen.common.checks import check_function, check_mapping
from fastgen.training.batch import Loss
from fastgen.training.engine import Engine
from fastgen.training.feed import Feed
from fastgen.training.scaling import Scaling
from fastgen.training.settings import Settings


def check_parts(
    network: Any,
    loss: Any,
    settings: Any,
    engine: Any,
    scaling: Any,
    schedule: Any,
    description: Any,
) -> None:
    """Refuse what a trainer cannot be made of.

    Raises:
        TypeError: naming the argument.
    """
    check_function("loss", loss)
    if schedule is not None:
        check_function("schedule", schedule)
    if description is not None:
        check_mapping("description", description)
    kinds: dict[str, tuple[Any, type, bool]] = {
        "network": (network, nn.Module, False),
        "settings": (settings, Settings, False),
        "engine": (engine, Engine, True),
        "scaling": (scaling, Scaling, True),
    }
    for name, (value, kind, optional) in kinds.items():
        if not (isinstance(value, kind) or (optional and value is None)):
            raise TypeError(
                f"{name}={value!r}: expected a {kind.__module__.split('.')[0]} {kind.__name__}"
            )


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
