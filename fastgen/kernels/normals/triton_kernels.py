"""The device code of `normals`."""

import triton
import triton.language as tl

from fastgen.kernels.triton_support.elements import TABLES, keys, locate, rounded
from fastgen.kernels.triton_support.noise import group_normals


@triton.jit(do_not_specialize=("rows", "elements", "stream"), do_not_specialize_on_alignment=TABLES)
def normals_kernel(
    output,
    seeds,
    sample_ids,
    draw,
    rows: tl.int64,
    elements: tl.int64,
    stream: tl.int64,
    SEED_PER_ROW: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    FLAT: tl.constexpr,
    MIXED: tl.constexpr,
    EXACT: tl.constexpr,
):
    """Standard normals, `fastgen.kernels.normals.reference.normals`, in the output's dtype."""
    row, group, base, local, _, mask = locate(rows, elements, WIDTH, BLOCK, FLAT, MIXED, EXACT)
    seed, sample = keys(seeds, sample_ids, row, rows, SEED_PER_ROW, MIXED)
    number = tl.load(draw).to(tl.uint32)
    z = group_normals(group, sample, seed, number, stream.to(tl.uint32), WIDTH)
    tl.store(output + base + local, rounded(z, output.dtype.element_ty), mask=mask)
