"""What a loss is given: the samples of a step, or the part of them that one process holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

import fastgen.kernels as kernels
from fastgen.common.display import displayed
from fastgen.noise.keys import ids_in_order, training_noise
from fastgen.training.times import Times


@displayed
class Batch(NamedTuple):
    """data [B, ...]; labels [B] or None; step: its number, for `Path.sample`; seed of the run.

    Where a step is shared out, among processes or to accumulate gradients, these are the rows
    ``first`` .. ``first`` + B - 1 of ``total``; 0 says that they are all. noise: the rows that a
    coupling paired with them, or None.

    A loss that draws with `draws` gives each row what it would have in one whole batch, so that the
    training does not depend on the number of processes. It says so by ``loss.by_row = True``, as
    the objectives here do. Any other loss is given seeds that differ from part to part, so that no
    two parts draw the same numbers.
    """

    data: Tensor
    labels: Tensor | None
    step: int
    seed: int
    first: int = 0
    total: int = 0
    noise: Tensor | None = None

    @property
    def whole(self) -> bool:
        """Whether these are all rows of the step."""
        return self.total in (0, len(self.data))

    @property
    def sample_ids(self) -> range:
        """The rows' numbers among those of the step, for `fastgen.randn` and `Path.sample`."""
        return range(self.first, self.first + len(self.data))

    def draws(self, times: Times) -> dict[str, Any]:
        """Arguments of `Path.sample` and `losses.denoising`: seed, step, ids and times.

        Stratified and antithetic times belong to the whole batch: a part is given its share of it.
        """
        found: dict[str, Any] = {"seed": self.seed, "step": self.step, "times": times}
        if self.whole:
            return found
        device, last = self.data.device, self.first + len(self.data)
        noise = training_noise(self.total, device, self.seed, self.step, None)
        found["t"] = kernels.times(noise, times.clock(device))[self.first : last]
        found["sample_ids"] = ids_in_order(self.total, device)[self.first : last]
        return found

    def rows(self, first: int, count: int) -> Batch:
        """A part of these rows."""
        kept = slice(first, first + count)
        return self._replace(
            data=self.data[kept],
            labels=None if self.labels is None else self.labels[kept],
            noise=None if self.noise is None else self.noise[kept],
            first=self.first + first,
            total=self.total or len(self.data),
        )


Loss = Callable[[nn.Module, Batch], Tensor]


def by_row(loss: Any) -> bool:
    """Whether a loss draws by the numbers of rows, see `Batch`; a method's object may say so."""
    owner = getattr(loss, "__self__", None)
    return bool(getattr(loss, "by_row", False) or getattr(owner, "by_row", False))
