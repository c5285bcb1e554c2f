"""Entropic transport between clouds whose points lie with several processes.

Every process has its points, all have both potentials. Blocks of columns are handed round in one
order, the same for any number of processes, and each process sums over them for its rows: so the
sums, and with them potentials and partners, have the same bits on one process as on eight.

A process holds its own points, again as float32 the rows it sums for, a block of each set, and some
eight numbers for each point of both sets; of its time, n m / processes pairs a half step, next to
nothing is spent on handing round.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastgen.common.arrays import MappedReads
from fastgen.common.checks import check_at_least
from fastgen.couplings.stored import Points, Stored, StoredSolver, check_points, reservoir
from fastgen.kernels import pairwise


class Scattered(Stored):
    """A cloud whose points are those of all processes, one after another by rank.

    Args:
        name: for messages.
        data: of this process, [>= 1, ...].
        block: points that are handed round at once; part of what the bits depend on.
        group: the processes.
    """

    def __init__(self, name: str, data: Points, block: int, group: dist.ProcessGroup) -> None:
        check_points(name, data)
        check_at_least("block", block, 1)
        self.name, self.data, self.block, self.group = name, data, block, group
        self.rank, size = dist.get_rank(group), dist.get_world_size(group)
        self._reads = MappedReads(data)
        self.shape = tuple(int(k) for k in data.shape[1:])
        self.device = data.device if isinstance(data, Tensor) else torch.device("cpu")
        told: list[Any] = [None] * size
        dist.all_gather_object(told, (int(data.shape[0]), self.shape, block), group=group)
        if len({kind[1:] for kind in told}) > 1:
            raise ValueError(f"{name}: points and blocks differ among processes: {told}")
        self.ends = torch.tensor([kind[0] for kind in told], device="cpu").cumsum(0).tolist()
        self.count = self.ends[-1]
        firsts = range(0, self.count, block)
        # Blocks in equal shares: as many points as a process has, or a block more or less.
        share = [k * len(firsts) // size for k in (self.rank, self.rank + 1)]
        self._mine = set(firsts[share[0] : share[1]])
        self._rows: dict[int, Tensor] = {}
        self.centre, self.squares = self._measure()
        self.length = 1.0

    def read(self, index: Any) -> Tensor:
        """Consecutive points, float32; called by all processes."""
        first, last = index.start, min(index.stop, self.count)
        parts, begin = [], 0
        for owner, end in enumerate(self.ends):
            low, high = max(first, begin), min(last, end)
            if low < high:
                mine = owner == self.rank
                part = (
                    super().read(slice(low - begin, high - begin)).contiguous()
                    if mine
                    else torch.empty(high - low, *self.shape, device=self.device)
                )
                dist.broadcast(part, group=self.group, group_src=owner)
                parts.append(part)
            begin = end
        found = torch.cat(parts)
        if first in self._mine and last - first == min(self.block, self.count - first):
            self._rows[first] = found
        return found

    def own(self) -> Iterator[tuple[int, Tensor]]:
        """The blocks that this process sums for, in the coordinates of the problem."""
        for first in sorted(self._mine):
            yield first, self.normalised(self._rows[first])

    def together(self, x: Tensor) -> Tensor:
        """Of each place what the process knows whose blocks it is in; elsewhere is the least."""
        found = x.to(self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self.group)
        return found.to(x.device)


class ScatteredSolver(StoredSolver):
    """Half steps between scattered clouds with uniform weights."""

    def __init__(self, x0: Scattered, x1: Scattered, eps: float, backend: str | None) -> None:
        super().__init__(x0, x1, eps, backend)
        self._scattered = x0, x1

    def log_sum_rows(self, G: Tensor) -> Tensor:
        """log sum_j exp(scores) for each row, [n]."""
        return self._sums(*self._scattered, G / self.eps + self._log_weights[1])

    def log_sum_columns(self, F: Tensor) -> Tensor:
        """The same for each column, [m]."""
        x0, x1 = self._scattered
        return self._sums(x1, x0, F / self.eps + self._log_weights[0])

    def _sums(self, rows: Scattered, columns: Scattered, bias: Tensor) -> Tensor:
        found = torch.full((rows.count,), -torch.inf, dtype=torch.float64, device="cpu")
        own = list(rows.own())
        for j, y in columns.blocks():
            part = bias[j : j + len(y)].to(y.device)
            for i, x in own:
                sums = pairwise.log_sum(x, y, part, 2 / self.eps, backend=self.backend)
                known = found[i : i + len(x)]
                known.copy_(torch.logaddexp(known, sums.cpu()))
        return rows.together(found)

    def sample(self, G: Tensor, seeds: Tensor, draw: int) -> Tensor:
        """A column for each row, int64 [n], as of stored clouds."""
        rows, columns = self._scattered
        bias = G / self.eps + self._log_weights[1]
        found = torch.full((rows.count,), -1, dtype=torch.int64, device="cpu")
        own = list(rows.own())
        totals = {
            i: torch.full((len(x),), -torch.inf, dtype=torch.float64, device="cpu") for i, x in own
        }
        for block, (j, y) in enumerate(columns.blocks()):
            for i, x in own:
                reservoir(
                    (i, x), (j, y), bias, 2 / self.eps, (seeds, draw + 2 * block),
                    totals[i], found, self.backend,
                )  # fmt: skip
        return rows.together(found)
