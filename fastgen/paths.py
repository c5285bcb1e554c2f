"""The noise of one run as increments of each sample's Brownian motion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastgen import kernels
from fastgen.plans.forms import Increment


class Path:
    """(W(start) - W(end)) / sqrt(start - end) for the increments of a run, in internal time.

    W is the motion of `fastgen.brownian` with tree 0. Its values are kept while later increments
    need them, in order, so that a step evaluates the one new time; any other order gives the
    same numbers.

    Args:
        order: the run's increments, as often as stages read them.
        shape: [B, ...].
        seeds: int64 [1] or [B].
        sample_ids: int64 [B].
        backend: see `fastgen.kernels.implementation`.
    """

    def __init__(
        self,
        order: Sequence[Increment],
        shape: Sequence[int],
        seeds: Tensor,
        sample_ids: Tensor,
        backend: str | None = None,
    ) -> None:
        self.shape = torch.Size(shape)
        self.seeds, self.sample_ids = seeds, sample_ids
        self.kernel = kernels.implementation(sample_ids.device, backend)
        self.uses: dict[Increment, tuple[int, int]] = {}  # the first and the last
        self.first: dict[float, int] = {}
        self.last: dict[float, int] = {}
        for n, increment in enumerate(order):
            self.uses[increment] = self.uses.get(increment, (n, n))[0], n
            for t in (increment.start, increment.end):
                self.first.setdefault(t, n)
                self.last[t] = n
        self.index = {t: i for i, t in enumerate(self.first)}
        # All at once: a copy to the device in every step would make the host wait.
        self.times = torch.tensor(list(self.first), dtype=torch.float64).to(sample_ids.device)
        self.values: dict[float, Tensor] = {}

    def __call__(self, increment: Increment, dtype: torch.dtype) -> Tensor:
        """The unit noise of an increment, [B, ...]."""
        high, low = self._value(increment.start), self._value(increment.end)
        first, last = self.uses[increment]
        self.values = {
            t: w for t, w in self.values.items() if self.first[t] <= last and first < self.last[t]
        }
        z = (high - low).div_(math.sqrt(increment.start - increment.end))
        return z.reshape(self.shape).to(dtype)

    def _value(self, t: float) -> Tensor:
        if t not in self.values:
            i, elements = self.index[t], self.shape[1:].numel()
            w = self.kernel.brownian(
                elements, self.seeds, self.sample_ids, 0, self.times[i : i + 1]
            )
            self.values[t] = w[0]
        return self.values[t]
