"""The device code of `gram`."""

import triton
import triton.language as tl

# tl.sum is made of it; see `pairwise.triton_kernels`.
from triton.language.standard import _sum_combine


@triton.jit
def as_double(x):
    """x in float64; 16 bits go by way of float32, as everywhere."""
    return x if x.dtype == tl.float64 else x.to(tl.float32).to(tl.float64)


@triton.jit(do_not_specialize=("elements", "parts"))
def gram_kernel(inputs, partials, elements: tl.int64, parts: tl.int64, BLOCK: tl.constexpr):
    """The matrix of one part of one row: BLOCK elements, or what is left of the row."""
    part = tl.program_id(0).to(tl.int64)
    row = part // parts
    start = (part - row * parts) * BLOCK
    column = tl.arange(0, BLOCK)
    mask = start + column < elements
    at = row * elements + start + column
    size: tl.constexpr = len(inputs) + 1
    to = partials + part * (size * size)
    for i in tl.static_range(len(inputs)):
        x = as_double(tl.load(inputs[i] + at, mask=mask, other=0.0))
        for j in tl.static_range(i, len(inputs)):
            y = as_double(tl.load(inputs[j] + at, mask=mask, other=0.0))
            product = tl.reduce(x * y, 0, _sum_combine)
            tl.store(to + (i * size + j), product)
            tl.store(to + (j * size + i), product)
        total = tl.reduce(x, 0, _sum_combine)
        tl.store(to + (i * size + size - 1), total)
        tl.store(to + ((size - 1) * size + i), total)
    count = tl.reduce(mask.to(tl.float64), 0, _sum_combine)
    tl.store(to + (size * size - 1), count)
