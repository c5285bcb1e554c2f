"""Points read block by block from memory or from a memory-mapped file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgen.common.arrays import MappedReads
from fastgen.common.checks import check_at_least
from fastgen.couplings.potentials import EntropicSolver, Marginals
from fastgen.kernels import Stream, pairwise
from fastgen.kernels.pairwise import Keys
from fastgen.kernels.pairwise.reference import uniforms

# A tensor, or an array of numpy, which may be memory-mapped.
Points = Any


class Stored:
    """A cloud [n, ...] that is never in memory as a whole unless it was.

    blocks() gives (first, float32 [<= block, d]): the points less `centre`, over `length`.
    """

    def __init__(self, name: str, data: Points, block: int) -> None:
        check_points(name, data)
        check_at_least("block", block, 1)
        self.name, self.data, self.block = name, data, block
        self.count, self.shape = int(data.shape[0]), tuple(int(k) for k in data.shape[1:])
        self._reads = MappedReads(data)
        self.centre, self.squares = self._measure()
        self.length = 1.0

    def read(self, index: Any) -> Tensor:
        """Points as they are given, float32: index is a slice or a tensor of integers."""
        if isinstance(self.data, Tensor):
            return self.data[index].float()
        chosen = index.cpu().numpy() if isinstance(index, Tensor) else index
        found = np.array(self.data[chosen], dtype=np.float32)
        self._reads.add(found.nbytes)
        return torch.from_numpy(found)

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """The points in order, in the coordinates of the problem."""
        for first in range(0, self.count, self.block):
            yield first, self.normalised(self.read(slice(first, first + self.block)))

    def normalised(self, points: Tensor) -> Tensor:
        """Points in the coordinates of the problem, float32 [k, d]."""
        centre = self.centre.to(points.device)
        return ((points.flatten(1).double() - centre) / self.length).float()

    def norms(self) -> Tensor:
        """|x|^2 of the normalised points, float64 [n]."""
        # Small results that stay between large ones that go would scatter the free memory.
        found = torch.empty(self.count, dtype=torch.float64, device=self.centre.device)
        for first, x in self.blocks():
            found[first : first + len(x)] = x.double().square().sum(1)
        return found

    def _measure(self) -> tuple[Tensor, float]:
        """Mean and mean squared distance from it, in two passes; finite, or a ValueError."""
        total: Tensor | float = 0.0
        for first in range(0, self.count, self.block):
            x = self.read(slice(first, first + self.block)).flatten(1).double()
            finite = x.isfinite().all(1)
            if not finite.all():
                at = first + int((~finite).nonzero()[0])
                raise ValueError(f"{self.name}: point {at} has a coordinate that is not finite")
            total = total + x.sum(0)
        assert isinstance(total, Tensor)
        centre = total / self.count
        squares = 0.0
        for first in range(0, self.count, self.block):
            x = self.read(slice(first, first + self.block)).flatten(1).double()
            squares += (x - centre).square().sum().item()
        return centre, squares / self.count


class StoredSolver(EntropicSolver):
    """Half steps between stored clouds with uniform weights: sums over blocks of columns.

    Centred each by itself, squared distances change by numbers of rows or of columns alone, which
    a balanced plan does not see.
    """

    def __init__(self, x0: Stored, x1: Stored, eps: float, backend: str | None) -> None:
        self.sweeps = False  # blocks are read for one half step at a time
        self.x0, self.x1, self.eps, self.backend = x0, x1, eps, backend
        self.marginals = Marginals()
        self._total = 1.0
        self._log_weights = tuple(
            torch.full((x.count,), 1 / x.count, dtype=torch.float64, device="cpu").log()
            for x in (x0, x1)
        )

    def log_sum_rows(self, G: Tensor) -> Tensor:
        """log sum_j exp(scores) for each row, [n]."""
        return self._log_sum(self.x0, self.x1, G / self.eps + self._log_weights[1])

    def log_sum_columns(self, F: Tensor) -> Tensor:
        """The same for each column, [m]."""
        return self._log_sum(self.x1, self.x0, F / self.eps + self._log_weights[0])

    def fit(self, sums: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """The potential for which one marginal is exact."""
        return -self.eps * sums, sums.new_zeros(())

    def error(self, F: Tensor, level: Tensor, sums: Tensor, side: int = 0) -> Tensor:
        """L1 error of the row marginal."""
        marginal = (self._log_weights[0] + F / self.eps + sums).exp()
        return (marginal - 1 / self.x0.count).abs().sum()

    def translate(self, F: Tensor, G: Tensor) -> Tensor:
        """A balanced plan has no translation to find."""
        return F

    def _log_sum(self, rows: Stored, columns: Stored, bias: Tensor) -> Tensor:
        found = torch.full((rows.count,), -torch.inf, dtype=torch.float64, device="cpu")
        for i, x in rows.blocks():
            part = found[i : i + len(x)]
            for j, y in columns.blocks():
                sums = pairwise.log_sum(
                    x, y, bias[j : j + len(y)].to(x.device), 2 / self.eps, backend=self.backend
                )
                part.copy_(torch.logaddexp(part, sums.cpu()))
        return found

    def sample(self, G: Tensor, seeds: Tensor, draw: int) -> Tensor:
        """A column for each row, int64 [n]: the reservoir of `pairwise.sample`, over blocks.

        Block k draws inside with draw + 2 k and is chosen with a uniform of draw + 2 k + 1.
        """
        bias = G / self.eps + self._log_weights[1]
        column = torch.zeros(self.x0.count, dtype=torch.int64, device="cpu")
        for i, x in self.x0.blocks():
            total = torch.full((len(x),), -torch.inf, dtype=torch.float64, device="cpu")
            for block, (j, y) in enumerate(self.x1.blocks()):
                reservoir(
                    (i, x), (j, y), bias, 2 / self.eps, (seeds, draw + 2 * block), total, column,
                    self.backend,
                )  # fmt: skip
        return column


def check_points(name: str, data: Points) -> None:
    """Refuse what is no cloud.

    Raises:
        TypeError, ValueError: naming it.
    """
    if not isinstance(data, (Tensor, np.ndarray)):
        raise TypeError(
            f"{name}: expected a tensor or a numpy array (np.load(..., mmap_mode='r')), got "
            f"{type(data).__name__}"
        )
    if data.ndim < 2 or 0 in data.shape:
        raise ValueError(
            f"{name}: expected [points, coordinates ...] with neither zero, got {list(data.shape)}"
        )


def reservoir(
    rows: tuple[int, Tensor],
    columns: tuple[int, Tensor],
    bias: Tensor,
    scale: float,
    draws: tuple[Tensor, int],
    total: Tensor,
    column: Tensor,
    backend: str | None,
) -> None:
    """One block of columns for a block of rows, each with the number of its first point.

    A column is drawn inside the block, in proportion to exp(scores), and takes the place of the one
    so far with the probability that the block's sum has in the sum so far.

    Args:
        rows, columns: (number, normalised points).
        bias: of all columns, float64 [m].
        scale: of the products in the scores.
        draws: seeds, and the first of two draws.
        total: log of the sum so far, [rows]; moved on in place.
        column: of all rows, [n]; those of the rows are set in place.
    """
    (i, x), (j, y), (seeds, draw) = rows, columns, draws
    keys = Keys(seeds, torch.arange(i, i + len(x), device="cpu"), draw, Stream.PLAN)
    part = bias[j : j + len(y)].to(x.device)
    sums, inside = (k.cpu() for k in pairwise.sample(x, y, part, scale, keys, backend=backend))
    total.copy_(torch.logaddexp(total, sums))
    u, _ = uniforms(keys._replace(draw=draw + 1), len(x), 0)
    taken = u.log() + total < sums
    column[i : i + len(x)] = torch.where(taken, inside + j, column[i : i + len(x)])


def best_column(x: Tensor, data: Stored, bias: Tensor, backend: str | None) -> Tensor:
    """argmax_j (2 <x_i, y_j> + bias_j) over all blocks, int64 [rows]; the lowest among equals.

    x: normalised points, float32 [rows, d]; bias: float64 [m].
    """
    high = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
    column = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for j, y in data.blocks():
        part, place = pairwise.best(
            x, y.to(x.device), bias[j : j + len(y)].to(x.device), 2.0, backend=backend
        )
        column = torch.where(part > high, place + j, column)
        high = torch.maximum(high, part)
    return column
