"""Standard normals in C++ on CPU tensors (``csrc/normals``)."""

import torch
from torch import Tensor

import fastgen._C as _C
from fastgen.kernels.contract import DTYPE_CODES
from fastgen.kernels.cpp_support import address, key_addresses, pooled, readable, thread_count


def normals(
    elements: int,
    seeds: Tensor,
    sample_ids: Tensor,
    draw: Tensor | int,
    stream: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`normals.reference.normals`, [rows, elements], rounded to `dtype`."""
    rows = sample_ids.shape[0]
    z = pooled((rows, elements), dtype)
    seeds, sample_ids = readable(seeds), readable(sample_ids)
    _C.normals(
        rows=rows,
        elements=elements,
        noise=key_addresses(seeds, sample_ids, stream),
        draw=int(draw) & 0xFFFFFFFF,
        output=address(z),
        dtype=DTYPE_CODES[dtype],
        threads=thread_count(z.numel()),
    )
    return z
