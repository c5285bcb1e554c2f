"""Who places, casts, synchronises and tells: one process by itself, or a library that runs many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastgen.common.checks import check_at_least, check_integer
from fastgen.common.display import displayed
from fastgen.training.batch import Batch, Loss
from fastgen.training.settings import Settings
from fastgen.training.steps import optimiser


@displayed
class Engine:
    """One process alone, with nothing but torch: what a `Trainer` has unless it is given another.

    `fastgen.integrations.accelerate.Accelerated` is one for any number of processes. Another
    library's is made by overriding these methods.

    Args:
        accumulate: into how many parts a step's batch is divided, one after another, where the
            whole does not fit into memory. The gradient is the same to rounding.
    """

    rank, processes = 0, 1
    # Where tensors go; None: they stay where they are.
    device: torch.device | None = None

    def __init__(self, accumulate: int = 1) -> None:
        self.accumulate = check_integer("accumulate", accumulate)
        check_at_least("accumulate", accumulate, 1)
        self._bfloat16 = ""

    def _facts(self) -> dict[str, Any]:
        return {"processes": self.processes, "rank": self.rank, "accumulate": self.accumulate}

    def check(self, settings: Settings) -> None:
        """Refuse settings that do not fit.

        Raises:
            ValueError: naming them.
        """
        parts = self.processes * self.accumulate
        if settings.batch % parts:
            raise ValueError(
                f"batch={settings.batch}: expected a multiple of {parts}, {self.processes} "
                f"processes times {self.accumulate} parts, so that all parts are of one size"
            )

    def prepare(
        self, whole: Whole, average: nn.Module, settings: Settings
    ) -> tuple[Callable[..., Tensor], torch.optim.Optimizer]:
        """Take over the network and its average, in place.

        Returns:
            What is called instead of ``whole``, and the optimiser.
        """
        if settings.bfloat16:
            self._bfloat16 = next(iter(whole.parameters())).device.type
        return whole, optimiser(whole.parameters(), settings)

    def settle(self, called: Callable[..., Tensor], batch: Batch) -> None:
        """Before each step; the first of a process may have to be made like those that follow."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Around losses."""
        return torch.autocast(self._bfloat16, torch.bfloat16) if self._bfloat16 else nullcontext()

    def accumulating(self, called: Any) -> AbstractContextManager[Any]:
        """Around each part of a step."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """The gradient of one part's loss, added to the step's."""
        part = loss / self.accumulate if self.accumulate > 1 else loss
        part.backward()  # type: ignore[no-untyped-call]

    def clip(self, parameters: Iterable[nn.Parameter], norm: float) -> None:
        """Scale the gradient down to a norm."""
        nn.utils.clip_grad_norm_(parameters, norm)

    def mean(self, x: Tensor) -> Tensor:
        """Over the processes."""
        return x

    def gather(self, x: Tensor) -> Tensor:
        """The rows of all processes, by rank."""
        return x

    def wait(self) -> None:
        """Until all processes are here."""

    def end(self) -> None:
        """Part with the other processes and close the trackers."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Tell the trackers numbers."""

    def log_image(self, name: str, pixels: np.ndarray, step: int) -> bool:
        """Tell the trackers a picture [H, W, 3] of bytes; whether there was one that took it."""
        return False


class Whole(nn.Module):
    """A loss as a module around the network: what is called is what is synchronised and cast."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, *batch: Any) -> Tensor:
        """Of one batch, field by field."""
        return self.loss(self.network, Batch(*batch))
