"""The loss on held-out data, the same noise every time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgen.training.batch import Batch, by_row
from fastgen.training.feed import Reader
from fastgen.training.order import check_labels
from fastgen.training.run import Run

# Numbers of the steps of validation: apart from those of training, and below 2^32.
FIRST_STEP = 1 << 31


class Validation:
    """Held-out samples, gone through in their order in batches of the settings' size.

    data: a tensor [N, ...], a set of `fastgen.datasets`, or a pair (samples, labels).
    """

    def __init__(self, data: Any, trainer: Run) -> None:
        data, labels = data if isinstance(data, tuple) else (data, getattr(data, "labels", None))
        self.labels: Tensor | None = labels
        if not len(data):
            raise ValueError("validation: expected at least one sample, got none")
        shape = tuple(data.shape[1:] if isinstance(data, Tensor) else data.shape)
        if shape != trainer.feed.shape:
            raise ValueError(
                f"validation: samples of shape {list(shape)}, trained on {list(trainer.feed.shape)}"
            )
        check_labels(labels, len(data), trainer.classes)
        if (labels is None) != (trainer.labels is None):
            raise ValueError("validation: give (samples, labels) just where there are labels")
        self.data = data if isinstance(data, Tensor) else Reader(data, "raise")

    def __call__(self, trainer: Run) -> float:
        """The mean over all samples, of the averaged weights; called by all processes."""
        engine, device = trainer.engine, trainer.feed.device
        total = torch.zeros((), dtype=torch.float64, device=device)
        count, size = len(self.data), trainer.settings.batch
        for step, first in enumerate(range(0, count, size)):
            rows = min(size, count - first)
            # Consecutive shares. Who has none computes a row that does not count, so that sharded
            # weights are gathered by all.
            low, high = (k * rows // engine.processes for k in (engine.rank, engine.rank + 1))
            weight = high - low
            batch = self._batch(trainer, first, low, max(weight, 1), rows, step)
            if not by_row(trainer.loss):
                batch = batch._replace(seed=batch.seed + (engine.rank << 32))
            with torch.no_grad(), engine.autocast():
                loss = trainer.loss(trainer.average, batch)
            total += loss.double() * weight
        return float(engine.mean(total) * engine.processes / count)

    def _batch(self, trainer: Run, start: int, low: int, count: int, rows: int, step: int) -> Batch:
        """Rows low .. low + count - 1 of a batch of ``rows``, of which a coupling needs all."""
        objective, low = getattr(trainer.loss, "__self__", None), min(low, rows - 1)
        couples = getattr(objective, "coupling", "independent") != "independent"
        first, last = (start, start + rows) if couples else (start + low, start + low + count)
        data, labels, device = self.data, self.labels, trainer.feed.device
        x = data[first:last] if isinstance(data, Tensor) else data[first:last].data
        x = x.to(device)
        if trainer.scaling is not None:
            x = trainer.scaling.encode(x)
        y = None if labels is None else labels[first:last].to(device)
        batch = Batch(x, y, FIRST_STEP + step, trainer.settings.seed)
        if couples:
            assert objective is not None
            paired: Batch = objective.paired(trainer.average, batch)
            return paired.rows(low, count)
        return batch._replace(first=low, total=rows)
