"""What training loops of other libraries share: batches of their loaders, losses, the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.common.checks import check_floating
from fastgen.model.model import Model
from fastgen.training.batch import Batch, Loss
from fastgen.training.settings import Settings
from fastgen.training.steps import dropped
from fastgen.training.validation import FIRST_STEP


def seed_of(seed: int, rank: int) -> int:
    """The seed of a process: that of the run for the first, and others for the others."""
    return seed + (rank << 32)


def batch_of(found: Any, step: int, seed: int) -> Batch:
    """What a loader gave: data, (data,) or (data, labels).

    Raises:
        TypeError, ValueError: for anything else.
    """
    parts = found if isinstance(found, Sequence) else (found,)
    if not 1 <= len(parts) <= 2 or not all(isinstance(x, Tensor) for x in parts):
        kinds = ", ".join(type(x).__name__ for x in parts)
        raise TypeError(f"batch: expected data, or (data, labels), got ({kinds})")
    check_floating("batch", parts[0])
    return Batch(parts[0], parts[1] if len(parts) == 2 else None, step, seed)


def with_dropped(batch: Batch, network: nn.Module, settings: Settings) -> Batch:
    """The batch with some labels replaced by "none given", as a trainer does it."""
    if batch.labels is None:
        return batch
    labels = dropped(batch.labels, network, settings, batch.step, batch.seed)
    return batch._replace(labels=labels)


class Learned:
    """An objective's two parts: the loss of a batch, and the model that is learned.

    Args:
        objective: one of `fastgen.training` (Flow, Denoising, LatentScore), or a function of
            (network, `Batch`) that returns a loss.
        model: function of a network that returns a `fastgen.Model`, where the objective has none.
    """

    def __init__(self, objective: Any, model: Callable[[nn.Module], Model] | None = None) -> None:
        loss: Loss | None = getattr(objective, "loss", objective)
        if not callable(loss):
            raise TypeError(
                f"objective={objective!r}: expected one of fastgen.training, such as Flow(), or a "
                "function of (network, batch)"
            )
        self.loss = loss
        self._model = model if model is not None else getattr(objective, "model", None)

    def model(self, network: nn.Module) -> Model:
        """For `fastgen.sample`.

        Raises:
            ValueError: for an objective that is a function alone.
        """
        if self._model is None:
            raise ValueError(
                "model: this objective is a function alone; give model=lambda network: "
                "fastgen.Model(network, schedule, predicts)"
            )
        return self._model(network)


def loss_of_average(
    learned: Learned, average: nn.Module, found: Any, index: int, seed: int
) -> tuple[Tensor, int]:
    """The loss of averaged weights on a batch of validation, and the number of its samples.

    The noise of a batch is the same every time: differences come from the weights.
    """
    batch = batch_of(found, FIRST_STEP + index, seed)
    with torch.no_grad():
        return learned.loss(average, batch).detach(), len(batch.data)
