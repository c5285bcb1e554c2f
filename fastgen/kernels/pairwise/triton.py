"""The pairwise reductions in Triton on CUDA and ROCm tensors, in float32.

With ``TRITON_INTERPRET=1`` set before this is imported they run on CPU tensors, slowly, for tests.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastgen.common.memory import readable
from fastgen.kernels.pairwise.contract import NOWHERE, TILE, Keys
from fastgen.kernels.pairwise.triton_kernels import BEST, LOG_SUM, MEAN, SAMPLE, pairs_kernel
from fastgen.kernels.triton_support.launch import OPTIONS, launch

# Of a program: with fewer, a tile of scores and three-part operands do not fit into registers.
THREADS = 256
WARPS = THREADS // (64 if torch.version.hip else 32)


def constants(want: int, dims: int, features: int, hip: bool) -> tuple[Any, ...]:
    """The kernel's constants PRECISION, ROWS, TILE, DEPTH, FEATURES, QUADS, FEATURE_QUADS.

    Three TF32 products give float32's digits on tensor cores; AMD's units take float32 itself.
    """
    precision, quads = "ieee" if hip else "tf32x3", (dims % 4 == 0, features % 4 == 0)
    if want != MEAN:
        # 64 rows would not fit the registers of sums; for means the compiler takes instructions
        # (wgmma) that no test without a GPU can run.
        return precision, 32, TILE, 16, 16, *quads
    # The weights are operands too, in three parts. Tiles matter to samples alone.
    return precision, 32, 64, 16, 16 if features <= 16 else 32, *quads


def _reduce(
    want: int,
    x: Tensor,
    y: Tensor,
    bias: Tensor,
    scale: float,
    values: Tensor | None = None,
    keys: Keys | None = None,
) -> tuple[Tensor, Tensor]:
    (rows, dims), columns, device = x.shape, y.shape[0], x.device
    x, y = readable(x.detach()), readable(y.detach())
    bias = (bias.detach().clamp(min=NOWHERE) / math.log(2)).float().contiguous()
    factor = torch.full((1,), scale / math.log(2), dtype=torch.float32, device=device)
    features = 0 if values is None else values.shape[1]
    log_sum = torch.empty(rows, dtype=torch.float64, device=device)
    mean = torch.empty((rows, features), dtype=torch.float32, device=device)
    column = torch.empty(rows, dtype=torch.int64, device=device)
    cut = constants(want, dims, features, torch.version.hip is not None)
    programs = -(-rows // cut[1]), max(1, -(-features // cut[4]))
    seeds, ids = (column, column) if keys is None else (keys.seeds, keys.sample_ids)
    if rows:
        weighed = x if values is None else readable(values.detach())
        inputs = x, y, bias, factor, weighed, readable(seeds), readable(ids)
        draw, stream = (0, 0) if keys is None else (keys.draw, int(keys.stream))
        launch(
            pairs_kernel,
            programs,
            (*inputs, log_sum, mean, column),
            (rows, columns, dims, features, draw, stream),
            (want, keys is not None and keys.seeds.numel() > 1, *cut),
            OPTIONS | {"num_warps": WARPS},
        )
    return log_sum, mean if want == MEAN else column


def log_sum(x: Tensor, y: Tensor, bias: Tensor, scale: float) -> Tensor:
    """`pairwise.reference.log_sum`."""
    return _reduce(LOG_SUM, x, y, bias, scale)[0]


def mean(x: Tensor, y: Tensor, bias: Tensor, scale: float, values: Tensor) -> tuple[Tensor, Tensor]:
    """`pairwise.reference.mean`."""
    return _reduce(MEAN, x, y, bias, scale, values)


def best(x: Tensor, y: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """`pairwise.reference.best`."""
    return _reduce(BEST, x, y, bias, scale)


def sample(x: Tensor, y: Tensor, bias: Tensor, scale: float, keys: Keys) -> tuple[Tensor, Tensor]:
    """`pairwise.reference.sample`."""
    return _reduce(SAMPLE, x, y, bias, scale, keys=keys)
