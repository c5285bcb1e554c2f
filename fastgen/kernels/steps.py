"""`combine` in C++ for callers whose tensors change with every call: only the layout is fixed.

`cpp.bind` holds buffers by address; here table, inputs and outputs come with the call, and the
description stays good for as long as shapes and dtypes do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from fastgen import _C
from fastgen.kernels.contract import DTYPE_CODES, Noise, check_combine
from fastgen.kernels.cpp import PARALLEL_FROM

# An input that a call brings is one of this many; the caller's own are counted on from here.
GIVEN = 4
# run(table's address, threads, own, written, *given): the new tensors, or None where an input did
# not fit and nothing ran. ``own`` and ``written`` are tensors, or addresses of float32 buffers of
# the layout's shape that the caller answers for.
Layout: TypeAlias = Callable[..., "tuple[Tensor, ...] | None"]


def describe(
    like: Tensor,
    source: Sequence[int],
    inputs: list[Tensor],
    made: list[torch.dtype],
    written: list[torch.dtype],
    table: Tensor,
    clip: tuple[float, float] | None = None,
    noise: Noise | None = None,
) -> Layout:
    """The layout of a `combine` with one table for all rows, checked on these tensors.

    Calls must bring a table of the same size. The tensors of ``noise`` are held by address: they
    must live as long as the layout, and draws written to in place take effect.

    Args:
        like: the first given tensor, which new tensors are like.
        source: of each input its position among the given, or GIVEN + its position in ``own``.
        inputs: the tensors there.
        made: dtypes of the outputs that are new tensors.
        written: dtypes of those after them, which the caller provides.
        table: float64 [1, M (+ 1), N (+ 1) + K].
        clip: bounds of the clipped value.
        noise: what the table's last columns draw.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    check_combine(inputs, table, made + written, clip, noise)
    if table.shape[0] != 1:
        raise ValueError(f"table: expected one for all rows, got {table.shape[0]}")
    rows = like.shape[0]
    described = None
    if noise is not None:
        described = (
            noise.seeds.data_ptr(),
            noise.seeds.numel(),
            noise.sample_ids.data_ptr(),
            int(noise.stream),
            noise.draws.data_ptr(),
            noise.draws.numel(),
        )
    return _C.describe_layout(
        type=Tensor,
        empty_like=torch.empty_like,
        shape=like.shape,
        rows=rows,
        elements=like.numel() // max(rows, 1),
        source=list(source),
        dtypes=(*(x.dtype for x in inputs), like.dtype),
        inputs=[DTYPE_CODES[x.dtype] for x in inputs],
        outputs=[DTYPE_CODES[kind] for kind in made + written],
        made=[None if kind is like.dtype else kind for kind in made],
        clip=clip,
        noise=described,
    )


def threads(elements: int) -> int:
    """Threads for a call of this size; 0 for as many as torch has."""
    return 0 if elements >= PARALLEL_FROM else 1
