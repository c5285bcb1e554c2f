"""Training batches in C++ on CPU tensors (``csrc/bridge``)."""

from __future__ import annotations

import torch
from torch import Tensor

import fastgen._C as _C
from fastgen.kernels.bridge.contract import FEATURES, Clock
from fastgen.kernels.contract import DTYPE_CODES, HoldsAddresses, Noise, Stream
from fastgen.kernels.cpp_support import (
    PARALLEL_FROM,
    address,
    key_addresses,
    pooled,
    readable,
    thread_count,
)


def times(seeds: Tensor, sample_ids: Tensor, draw: Tensor, clock: Clock) -> Tensor:
    """`bridge.reference.times`, float64 [rows]."""
    t = torch.empty(sample_ids.shape[0], dtype=torch.float64, device="cpu")
    seeds, sample_ids = readable(seeds), readable(sample_ids)
    quantiles, draw = readable(clock.quantiles), readable(draw)
    _C.times(
        t.numel(),
        address(quantiles),
        quantiles.numel() - 1,
        int(clock.sampling),
        key_addresses(seeds, sample_ids, Stream.TIME),
        address(draw),
        address(t),
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
    held = [None if x is None else readable(x) for x in (x0, x1, index0, index1)]
    choices = []
    for x, index in (held[0::2], held[1::2]):
        chooser = 0 if index is None else address(index)
        if x is None:
            choices.append((0, 0, 0, 0))
        else:
            choices.append((address(x), DTYPE_CODES[x.dtype], x.shape[0], chooser))
    coefficients, ids = readable(coefficients), readable(noise.sample_ids)
    seeds, draws = readable(noise.seeds), readable(noise.draws)
    given, clock = 0, (0, 0, 0)
    if isinstance(times_or_clock, Clock):
        quantiles = readable(times_or_clock.quantiles)
        clock = address(quantiles), quantiles.numel() - 1, int(times_or_clock.sampling)
    else:
        times_or_clock = readable(times_or_clock)
        given = address(times_or_clock)
    t = torch.empty(rows, dtype=time_dtype, device="cpu")
    outputs = [pooled((rows, *shape), dtype) for dtype in dtypes]
    in_range = _C.bridge(
        rows,
        elements,
        choices[0],
        choices[1],
        address(coefficients),
        coefficients.shape[-1] == FEATURES,
        given,
        *clock,
        key_addresses(seeds, ids, noise.stream),
        int(Stream.TIME),
        address(draws),
        noisy,
        [(address(y), DTYPE_CODES[y.dtype]) for y in outputs],
        address(t),
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
        recipe, quantiles = readable(recipe), readable(clock.quantiles)
        self._held = recipe, quantiles  # by address
        self.run = _C.describe_bridge(
            like=torch.empty((rows, *shape), dtype=dtype, device="cpu"),
            times_like=torch.empty(rows, dtype=time_dtype, device="cpu"),
            elements=shape.numel(),
            code=DTYPE_CODES[dtype],
            times_code=DTYPE_CODES[time_dtype],
            index_dtype=torch.int64,
            recipe=address(recipe),
            targets=recipe.shape[0],
            noisy=noisy,
            quantiles=address(quantiles),
            cells=quantiles.numel() - 1,
            sampling=int(clock.sampling),
            stream=int(stream),
            time_stream=int(Stream.TIME),
            parallel=rows * shape.numel() >= PARALLEL_FROM,
        )
