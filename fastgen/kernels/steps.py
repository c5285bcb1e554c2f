"""`combine` in C++ for callers whose tensors change with every call: only the layout is fixed.

`cpp.bind` holds buffers by address; here table, inputs and outputs come with the call, and the
description stays good for as long as shapes and dtypes do.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fastgen import _C
from fastgen.kernels.contract import DTYPE_CODES, Noise, check_combine
from fastgen.kernels.cpp import PARALLEL_FROM

# run(table's address, threads, inputs, outputs) -> whether it ran. An input is a tensor, which is
# checked, or the address of one that the caller owns and knows; outputs are never checked.
Layout = Callable[[int, int, list[Tensor | int], list[Tensor | int]], bool]


def describe(
    inputs: list[Tensor],
    dtypes: list[torch.dtype],
    table: Tensor,
    clip: tuple[float, float] | None = None,
    noise: Noise | None = None,
) -> Layout:
    """The layout of a `combine` with one table for all rows, checked on these tensors.

    Calls must bring a table of the same size. The tensors of ``noise`` are held by address: they
    must live as long as the layout, and draws written to in place take effect.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    check_combine(inputs, table, dtypes, clip, noise)
    if table.shape[0] != 1:
        raise ValueError(f"table: expected one for all rows, got {table.shape[0]}")
    first = inputs[0]
    rows = first.shape[0]
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
    kinds = tuple(x.dtype for x in inputs)
    return _C.describe_layout(
        type=Tensor,
        shape=first.shape,
        rows=rows,
        elements=first.numel() // max(rows, 1),
        dtypes=kinds,
        inputs=[DTYPE_CODES[kind] for kind in kinds],
        outputs=[DTYPE_CODES[kind] for kind in dtypes],
        clip=clip,
        noise=described,
    )


def threads(elements: int) -> int:
    """How many threads to run a call of this size on."""
    return torch.get_num_threads() if elements >= PARALLEL_FROM else 1
