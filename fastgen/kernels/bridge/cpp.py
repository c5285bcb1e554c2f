"""Batches of a training run in C++ on CPU tensors (``csrc/bridge``)."""

from __future__ import annotations

import torch
from torch import Tensor

import fastgen._C as _C
from fastgen.kernels.contract import DTYPE_CODES, Clock, Stream
from fastgen.kernels.cpp import PARALLEL_FROM


class Batches:
    """`bridge` with recipes, drawn times, one seed and ids 0 .. rows - 1, described to C++ once.

    ``run(seed, draw, x0, x1, index0, index1)`` returns [t, outputs ...], or None where a tensor,
    the seed or the backend that is asked for are not those described: a small batch costs little
    beyond its arithmetic.
    """

    __slots__ = ("_held", "run")

    def __init__(
        self,
        rows: int,
        shape: torch.Size,
        dtype: torch.dtype,
        recipe: Tensor,
        clock: Clock,
        noisy: bool,
        stream: int,
    ) -> None:
        time_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        recipe, quantiles = recipe.contiguous(), clock.quantiles.contiguous()
        self._held = recipe, quantiles  # by address
        self.run = _C.describe_bridge(
            like=torch.empty((rows, *shape), dtype=dtype),
            times_like=torch.empty(rows, dtype=time_dtype),
            elements=shape.numel(),
            code=DTYPE_CODES[dtype],
            times_code=DTYPE_CODES[time_dtype],
            index_dtype=torch.int64,
            recipe=recipe.data_ptr(),
            targets=recipe.shape[0],
            noisy=noisy,
            quantiles=quantiles.data_ptr(),
            cells=quantiles.numel() - 1,
            sampling=int(clock.sampling),
            stream=int(stream),
            time_stream=int(Stream.TIME),
            parallel=rows * shape.numel() >= PARALLEL_FROM,
        )
