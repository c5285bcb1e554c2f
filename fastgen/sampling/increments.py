"""The noise of one run as increments of each sample's Brownian motion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastgen.common.devices import upload
from fastgen.kernels import dispatch
from fastgen.plans.forms import Increment


class IncrementTable:
    """Which values of W the increments of a plan are made of, and their times on a device.

    Args:
        order: the increments, as often as stages read them.
        device: where the times are.
    """

    def __init__(self, order: Sequence[Increment], device: torch.device) -> None:
        self.uses: dict[Increment, tuple[int, int]] = {}  # the first and the last
        first: dict[float, int] = {}
        last: dict[float, int] = {}
        for n, increment in enumerate(order):
            self.uses[increment] = self.uses.get(increment, (n, n))[0], n
            for t in (increment.start, increment.end):
                first.setdefault(t, n)
                last[t] = n
        index = {t: i for i, t in enumerate(first)}
        # Everything is known by its number from here on; times are numbered by first use.
        self.first, self.last = list(first.values()), [last[t] for t in first]
        self.number = {increment: n for n, increment in enumerate(self.uses)}
        self.ends = [(index[i.start], index[i.end]) for i in self.uses]
        self.structure = tuple(self.ends), tuple(self.uses.values())
        # All at once: a copy to the device in every step would cost as much as a kernel.
        lengths = [math.sqrt(i.start - i.end) for i in self.uses]
        self.times = upload(torch.tensor(list(first), dtype=torch.float64, device="cpu"), device)
        self.lengths = upload(torch.tensor(lengths, dtype=torch.float64, device="cpu"), device)

    def load(self, other: IncrementTable) -> None:
        """Take the times of a table with the same structure, in place."""
        self.times.copy_(other.times)
        self.lengths.copy_(other.lengths)


class Increments:
    """(W(start) - W(end)) / sqrt(start - end) for the increments of a run, in internal time.

    W is the motion of `fastgen.brownian` with tree 0. Its values are kept while later increments
    need them, in order, so that a step evaluates the one new time; any other order gives the
    same numbers.

    Args:
        table: the increments.
        shape: [B, ...].
        seeds: int64 [1] or [B].
        sample_ids: int64 [B].
        backend: see `fastgen.kernels.dispatch.choose`.
    """

    def __init__(
        self,
        table: IncrementTable,
        shape: Sequence[int],
        seeds: Tensor,
        sample_ids: Tensor,
        backend: str | None = None,
    ) -> None:
        self.table, self.shape = table, torch.Size(shape)
        self.seeds, self.sample_ids = seeds, sample_ids
        self.brownian = dispatch.find("brownian", sample_ids.device, backend)
        self.values: dict[int, Tensor] = {}

    def __call__(self, increment: Increment, dtype: torch.dtype) -> Tensor:
        """The unit noise of an increment, [B, ...]."""
        table = self.table
        number = table.number[increment]
        start, end = table.ends[number]
        high, low = self._value(start), self._value(end)
        first, last = table.uses[increment]
        self.values = {
            i: w for i, w in self.values.items() if table.first[i] <= last and first < table.last[i]
        }
        z = (high - low).div_(table.lengths[number])
        return z.reshape(self.shape).to(dtype)

    def _value(self, i: int) -> Tensor:
        if i not in self.values:
            elements, times = self.shape[1:].numel(), self.table.times[i : i + 1]
            self.values[i] = self.brownian(elements, self.seeds, self.sample_ids, 0, times)[0]
        return self.values[i]
