"""Pairs from an entropic plan that is never formed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_at_least, check_range
from fastgen.couplings.sinkhorn import SinkhornResult
from fastgen.kernels import Stream, pairwise
from fastgen.kernels.pairwise import NOWHERE, Keys
from fastgen.kernels.pairwise.reference import uniforms
from fastgen.noise.keys import id_tensor, seed_tensor


def sample_pairs(
    result: SinkhornResult,
    count: int | None = None,
    *,
    seed: int = 0,
    draw: int = 0,
) -> tuple[Tensor, Tensor]:
    """Independent pairs (i, j) from the plan, in one pass over the pairs of points.

    j is drawn from P's row i by a reservoir over tiles, fused into the sum
    (`fastgen.kernels.pairwise.sample`). The pairs are a function of (seed, draw) alone, up to the
    rounding of the plan.

    Args:
        result: of `sinkhorn`.
        count: number of pairs, with i drawn in proportion to the plan's row marginal. None: every
            row once, i = 0 .. n - 1 (pairs of the plan where its row marginal is uniform, and of
            the conditional plan elsewhere).
        seed: a 64-bit seed.
        draw: number of the draw, 0 <= draw < 2^30.

    Returns:
        (i, j), int64 [count] each.

    Raises:
        ValueError: naming the argument that is out of range.
    """
    draw = check_range("draw", draw, 30)
    if count is not None:
        check_at_least("count", count, 0)
    x, device = result.clouds.x, result.clouds.x.device
    n = x.shape[0] if count is None else count
    seeds, ids = seed_tensor(seed, 1, device), id_tensor(None, n, device)
    if count is None:
        i = ids
    else:
        u, _ = uniforms(Keys(seeds, ids, 2 * draw + 1, Stream.PLAN), n, 0)
        sums = result.row_marginal.cumsum(0)
        i = torch.searchsorted(sums, u * sums[-1], right=True).clamp(max=len(sums) - 1)
    bias, scale = result.scores()
    keys = Keys(seeds, ids, 2 * draw, Stream.PLAN)
    _, j = pairwise.sample(x[i], result.clouds.y, bias, scale, keys, backend=result.backend)
    return i, j


def round_to_permutation(
    result: SinkhornResult, assign: Callable[..., Any] | None = None, *, exchanges: int = 50
) -> Tensor:
    """A pairing without repetition near an entropic plan: x0[i] with x1[permutation[i]].

    With `assign` the pairing is exact, and starts from the plan's potential. Without it there are
    two parts. Until no row is free, each free row asks for the free column with the largest plan
    entry, and each column takes the row whose entry is largest. Then pairs (i, j), (i', j') whose
    exchange lowers the cost are exchanged, in each round those that do not touch each other.

    Args:
        result: of `sinkhorn`, with n <= m.
        assign: called as assign(x0, x1, warm_start=g), g [m] the potential of the columns; returns
            the permutation, or an object with an attribute `permutation`
            (`fastgen.couplings.assign`). warm_start is left out where n and m differ.
        exchanges: at most so many rounds of exchanges.

    Returns:
        int64 [n].

    Raises:
        ValueError: naming the argument that does not fit.
    """
    c = result.clouds
    n, m = c.x.shape[0], c.y.shape[0]
    if n > m:
        raise ValueError(
            f"result: expected at most as many rows as columns, got {n} and {m}; exchange x0 and x1"
        )
    if assign is not None:
        # In the coordinates of the clouds: costs differ by numbers of the row or column alone.
        start = {"warm_start": result.g / c.unit - c.columns + c.y.double().square().sum(1)}
        found = assign(c.x, c.y, **(start if n == m else {}))
        permutation: Tensor = getattr(found, "permutation", found)
        return permutation
    permutation = _greedy(result)
    for _ in range(exchanges):
        if not _exchange(result, permutation):
            break
    return permutation


def _greedy(result: SinkhornResult) -> Tensor:
    """Rounds of proposals: every round at least the best proposal is accepted."""
    c = result.clouds
    n, device = c.x.shape[0], c.x.device
    bias, scale = result.scores()
    f = result.f / c.unit - c.rows
    heights = c.log_a + f / (result.reg / c.unit)
    permutation = torch.full((n,), -1, dtype=torch.int64, device=device)
    rows = torch.arange(n, device=device)
    columns = torch.arange(c.y.shape[0], device=device)
    while len(rows):
        score, place = pairwise.best(
            c.x[rows], c.y[columns], bias[columns], scale, backend=result.backend
        )
        # By falling entry of the plan, lower rows first; each column's first proposal wins.
        order = (score + heights[rows]).argsort(descending=True, stable=True)
        wanted, proposals = place[order].sort(stable=True)
        first = torch.ones_like(wanted, dtype=torch.bool)
        first[1:] = wanted[1:] != wanted[:-1]
        winners = order[proposals[first]]
        permutation[rows[winners]] = columns[place[winners]]
        free = torch.ones_like(rows, dtype=torch.bool)
        free[winners] = False
        kept = torch.ones_like(columns, dtype=torch.bool)
        kept[place[winners]] = False
        rows, columns = rows[free], columns[kept]
    return permutation


def _exchange(result: SinkhornResult, permutation: Tensor) -> bool:
    """One round of exchanges, in place; whether there was one.

    Row i looks at the column whose potential less cost is largest beside its own, and takes it
    from its owner, who gets i's column, if the two costs fall.
    """
    c = result.clouds
    n, m = c.x.shape[0], c.y.shape[0]
    device = permutation.device
    bias = result.g / c.unit - c.columns
    rows = torch.arange(n, device=device)
    owner = torch.full((m,), -1, dtype=torch.int64, device=device)
    owner[permutation] = rows
    _, wanted = pairwise.best(c.x, c.y, bias, 2.0, backend=result.backend)

    def cost(i: Tensor, j: Tensor) -> Tensor:
        # Numbers of a row, such as |x_i|^2, cancel in the differences below; those of columns stay.
        return c.columns[j] - 2 * (c.x[i].double() * c.y[j].double()).sum(1)

    other = owner[wanted]
    free = other < 0
    other = torch.where(free, rows, other)
    before = cost(rows, permutation) + cost(other, permutation[other])
    after = cost(rows, wanted) + cost(other, permutation)
    gain = torch.where(free, cost(rows, permutation) - cost(rows, wanted), before - after)
    # Rounding must not exchange the same two for ever.
    gain = torch.where((other == rows) & ~free, NOWHERE, gain)
    able = (gain > 1e-12).nonzero()[:, 0]
    able = able[gain[able].argsort(descending=True, stable=True)]
    touched_rows: set[int] = set()
    touched_columns: set[int] = set()
    done = False
    listed = zip(
        able.tolist(), other[able].tolist(), wanted[able].tolist(), free[able].tolist(), strict=True
    )
    for i, partner, j, alone in listed:
        if touched_rows & {i, partner} or j in touched_columns:
            continue
        touched_rows |= {i, partner}
        touched_columns.add(j)
        mine = permutation[i].clone()
        permutation[i] = j
        if not alone:
            permutation[partner] = mine
        done = True
    return done
