"""Training batches in C++ on CPU tensors (``csrc/bridge``)."""

from __future__ import annotations

import torch
from torch import Tensor

import fastgen._C as _C
from fastgen.kernels.bridge.contract import FEATURES, Clock
from fastgen.kernels.contract import DTYPE_CODES, HoldsAddresses, Noise, Stream
from fastgen.kernels.cpp_support import PARALLEL_FROM, key_addresses, pooled, thread_count


def times(seeds: Tensor, sample_ids: Tensor, draw: Tensor, clock: Clock) -> Tensor:
    """`bridge.reference.times`, float64 [rows]."""
    t = torch.empty(sample_ids.shape[0], dtype=torch.float64)
    seeds, sample_ids = seeds.contiguous(), sample_ids.contiguous()
    quantiles = clock.quantiles.contiguous()
    _C.times(
        t.numel(),
        quantiles.data_ptr(),
        quantiles.numel() - 1,
        int(clock.sampling),
        key_addresses(seeds, sample_ids, Stream.TIME),
        draw.data_ptr(),
        t.data_ptr(),
    )
    return t


def bridge(
    x0: Tensor | None,
    x1: Tensor,
    index0: Tensor | None,
    index1: Tensor | None,
    coefficients: Tensor,
    times_or_clock: Tensor | Clock,
    noise: Noise,
    noisy: bool,
    dtypes: list[torch.dtype],
    time_dtype: torch.dtype,
) -> list[Tensor]:
    """`bridge.reference.bridge`; raises a ValueError for an index out of range."""
    rows, shape = noise.sample_ids.shape[0], x1.shape[1:]
    elements = shape.numel()
    held = [None if x is None else x.contiguous() for x in (x0, x1, index0, index1)]
    choices = []
    for x, index in (held[0::2], held[1::2]):
        chooser = 0 if index is None else index.data_ptr()
        if x is None:
            choices.append((0, 0, 0, 0))
        else:
            choices.append((x.data_ptr(), DTYPE_CODES[x.dtype], x.shape[0], chooser))
    coefficients, ids = coefficients.contiguous(), noise.sample_ids.contiguous()
    seeds = noise.seeds.contiguous()
    given, clock = 0, (0, 0, 0)
    if isinstance(times_or_clock, Clock):
        quantiles = times_or_clock.quantiles.contiguous()
        clock = quantiles.data_ptr(), quantiles.numel() - 1, int(times_or_clock.sampling)
    else:
        times_or_clock = times_or_clock.contiguous()
        given = times_or_clock.data_ptr()
    t = torch.empty(rows, dtype=time_dtype)
    outputs = [pooled((rows, *shape), dtype) for dtype in dtypes]
    in_range = _C.bridge(
        rows,
        elements,
        choices[0],
        choices[1],
        coefficients.data_ptr(),
        coefficients.shape[-1] == FEATURES,
        given,
        *clock,
        key_addresses(seeds, ids, noise.stream),
        int(Stream.TIME),
        noise.draws.data_ptr(),
        noisy,
        [(y.data_ptr(), DTYPE_CODES[y.dtype]) for y in outputs],
        t.data_ptr(),
        DTYPE_CODES[time_dtype],
        thread_count(rows * elements),
    )
    if not in_range:
        raise ValueError("index: an entry is outside the rows of its tensor")
    return [t, *outputs]


class Batches(HoldsAddresses):
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
