"""The pairwise reductions in Triton on CUDA and ROCm tensors, in float32.

With ``TRITON_INTERPRET=1`` set before this is imported they run on CPU tensors, slowly, for tests.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgen.common.memory import readable
from fastgen.kernels.pairwise.contract import NOWHERE, TILE, Keys
from fastgen.kernels.pairwise.triton_kernels import BEST, LOG_SUM, MEAN, SAMPLE, pairs_kernel
from fastgen.kernels.triton_support.launch import OPTIONS, launch

# From this many rows on a program takes twice as many, and columns are read half as often. With
# fewer rows it would leave multiprocessors without work.
MANY = 1 << 15
REGISTERS = 128


class Cut(NamedTuple):
    """How a call is cut: the kernel's constants from PRECISION on, and its threads.

    Chosen so that REGISTERS a thread are enough, for 16 warps on a multiprocessor of NVIDIA's. A
    product of 64 rows or more would be another instruction there (wgmma), which no test without a
    GPU can run.
    """

    precision: str
    rows: int
    twice: bool
    tile: int
    depth: int
    features: int
    threads: int

    def constants(self) -> tuple[Any, ...]:
        """Of the kernel."""
        return self[:-1]

    def options(self, wave: int) -> dict[str, Any]:
        """Of the compiler, for threads that go `wave` at a time.

        A third tile under way would not fit beside the terms of a sample.
        """
        options = OPTIONS | {"num_warps": self.threads // wave, "num_stages": 2}
        # The size of larger programs says so by itself.
        few = wave == 32 and self.threads < 512
        return options | {"maxnreg": REGISTERS} if few else options


def cut(want: int, rows: int, features: int, hip: bool) -> Cut:
    """How a call is cut.

    Three TF32 products give float32's digits on tensor cores; AMD's units take float32 itself.
    """
    precision = "ieee" if hip else "tf32x3"
    if want == MEAN:  # the weights are operands too, in three parts; tiles matter to samples alone
        return Cut(precision, 32, False, 32, 16, 16 if features <= 16 else 64, 128)
    return Cut(precision, 32, want != SAMPLE and rows >= MANY, TILE, 16, 16, 512)


def whole(x: Tensor) -> Tensor:
    """Rows of whole 16 bytes, with zeros behind them, as copies of 16 bytes want them."""
    return torch.nn.functional.pad(x, (0, -x.shape[1] % 4)) if x.shape[1] % 4 else readable(x)


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
    x, y = whole(x.detach()), whole(y.detach())
    bias = (bias.detach().clamp(min=NOWHERE) / math.log(2)).float().contiguous()
    factor = torch.full((1,), scale / math.log(2), dtype=torch.float32, device=device)
    features = 0 if values is None else values.shape[1]
    log_sum = torch.empty(rows, dtype=torch.float64, device=device)
    mean = torch.empty((rows, features), dtype=torch.float32, device=device)
    column = torch.empty(rows, dtype=torch.int64, device=device)
    c = cut(want, rows, features, torch.version.hip is not None)
    programs = -(-rows // (c.rows * (1 + c.twice))), max(1, -(-features // c.features))
    seeds, ids = (column, column) if keys is None else (keys.seeds, keys.sample_ids)
    if rows:
        weighed = x if values is None else whole(values.detach())
        inputs = x, y, bias, factor, weighed, readable(seeds), readable(ids)
        draw, stream = (0, 0) if keys is None else (keys.draw, int(keys.stream))
        launch(
            pairs_kernel,
            programs,
            (*inputs, log_sum, mean, column),
            (rows, columns, dims, features, draw, stream),
            (want, keys is not None and keys.seeds.numel() > 1, *c.constants()),
            c.options(64 if torch.version.hip else 32),
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
