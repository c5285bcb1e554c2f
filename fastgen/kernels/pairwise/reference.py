"""The pairwise reductions in plain PyTorch: one tile of the matrix at a time, float64 inside."""

import torch
from torch import Tensor

from fastgen.kernels.normals.reference import MASK, philox
from fastgen.kernels.pairwise.contract import NOWHERE, TILE, Kept, Keys


def scores(x: Tensor, y: Tensor, bias: Tensor, scale: float) -> Tensor:
    """s_ij = scale <x_i, y_j> + bias_j in float64."""
    return scale * (x.double() @ y.double().T) + bias.clamp(min=NOWHERE)


def log_sum(x: Tensor, y: Tensor, bias: Tensor, scale: float) -> Tensor:
    """`fastgen.kernels.pairwise.log_sum`."""
    total = torch.full((x.shape[0],), -torch.inf, dtype=torch.float64, device=x.device)
    for j in range(0, y.shape[0], TILE):
        part = scores(x, y[j : j + TILE], bias[j : j + TILE], scale).logsumexp(1)
        total = torch.logaddexp(total, part)
    return total


def sweep(
    x: Tensor,
    y: Tensor,
    bias: Tensor,
    scale: float,
    weights: Tensor,
    before: Tensor,
    omega: float,
    kept: Kept | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`fastgen.kernels.pairwise.sweep`, which keeps nothing."""
    total = log_sum(x, y, bias, scale)
    relaxing = ((1 - omega) * (before + total)).exp()
    masses = torch.stack([weights, weights * relaxing])
    fitted, relaxed = torch.cat(
        [
            masses @ (scores(x, y[j : j + TILE], bias[j : j + TILE], scale) - total[:, None]).exp()
            for j in range(0, y.shape[0], TILE)
        ],
        1,
    )
    return total, fitted, relaxed


def mean(x: Tensor, y: Tensor, bias: Tensor, scale: float, values: Tensor) -> tuple[Tensor, Tensor]:
    """`fastgen.kernels.pairwise.mean`."""
    total = log_sum(x, y, bias, scale)
    sums = torch.zeros((x.shape[0], values.shape[1]), dtype=torch.float64, device=x.device)
    for j in range(0, y.shape[0], TILE):
        s = scores(x, y[j : j + TILE], bias[j : j + TILE], scale)
        sums += (s - total[:, None]).exp() @ values[j : j + TILE].double()
    return total, sums.to(x.dtype)


def best(x: Tensor, y: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """`fastgen.kernels.pairwise.best`."""
    high = torch.full((x.shape[0],), -torch.inf, dtype=torch.float64, device=x.device)
    column = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    for j in range(0, y.shape[0], TILE):
        s = scores(x, y[j : j + TILE], bias[j : j + TILE], scale)
        top = s.amax(1)
        # The first that equals the maximum: argmax promises no order.
        place = (s == top[:, None]).byte().argmax(1)
        column = torch.where(top > high, place + j, column)
        high = torch.maximum(high, top)
    return high, column


def uniforms(keys: Keys, rows: int, tile: int) -> tuple[Tensor, Tensor]:
    """The two uniforms of a tile, float64 [rows] each."""
    ids = keys.sample_ids
    seeds = keys.seeds.expand(rows)
    block = tile // 2
    counter = (
        torch.full_like(ids, block & MASK),
        ids & MASK,
        torch.full_like(ids, keys.draw),
        (((ids >> 32) & 0xFFFF) << 16) | (((block >> 32) & 0xFF) << 8) | keys.stream,
    )
    words = philox(counter, (seeds & MASK, (seeds >> 32) & MASK))
    u, v = ((words[2 * (tile % 2) + i].double() + 0.5) * 2.0**-32 for i in range(2))
    return u, v


def sample(x: Tensor, y: Tensor, bias: Tensor, scale: float, keys: Keys) -> tuple[Tensor, Tensor]:
    """`fastgen.kernels.pairwise.sample`."""
    rows = x.shape[0]
    total = torch.full((rows,), -torch.inf, dtype=torch.float64, device=x.device)
    column = torch.zeros(rows, dtype=torch.int64, device=x.device)
    for tile, j in enumerate(range(0, y.shape[0], TILE)):
        s = scores(x, y[j : j + TILE], bias[j : j + TILE], scale)
        part = s.logsumexp(1)
        total = torch.logaddexp(total, part)
        u, v = uniforms(keys, rows, tile)
        sums = (s - s.amax(1, keepdim=True)).exp().cumsum(1)
        inside = torch.searchsorted(sums, (v * sums[:, -1])[:, None], right=True)[:, 0]
        inside = inside.clamp(max=s.shape[1] - 1)
        column = torch.where(u.log() + total < part, inside + j, column)
    return total, column
