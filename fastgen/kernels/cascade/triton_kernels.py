"""The device code of `cascade`: sums one after another on the rows of a workspace."""

# mypy: disable-error-code="assignment"
import triton
import triton.language as tl

from fastgen.kernels.triton_support.elements import keys, locate
from fastgen.kernels.triton_support.noise import group_normals

# Integers that Triton would otherwise make constants (1) or specialise (multiples of 16).
SCALARS = ("rows", "elements", "stride", "first", "last", "terms", "low", "high", "stream")
# Arguments that are read one number at a time.
TABLES = ("coefficients", "lines", "sources", "seeds", "sample_ids", "draws")


@triton.jit(do_not_specialize=SCALARS, do_not_specialize_on_alignment=TABLES)
def cascade_kernel(
    work,
    coefficients,
    lines,
    sources,
    seeds,
    sample_ids,
    draws,
    rows: tl.int64,
    elements: tl.int64,
    stride: tl.int64,
    first: tl.int64,
    last: tl.int64,
    terms: tl.int64,
    low: tl.int64,
    high: tl.int64,
    stream: tl.int64,
    NOISE: tl.constexpr,
    BY_ROW: tl.constexpr,
    SEED_PER_ROW: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    FLAT: tl.constexpr,
    MIXED: tl.constexpr,
    EXACT: tl.constexpr,
):
    """`fastgen.kernels.cascade.reference.Cascade`: each program takes its elements of all rows.

    low and high are the bits of float64 bounds. What one sum writes another reads at the same
    elements; the barrier orders the threads of a program, which may be laid out otherwise there.
    """
    row, group, base, local, inside, mask = locate(rows, elements, WIDTH, BLOCK, FLAT, MIXED, EXACT)
    REAL: tl.constexpr = work.dtype.element_ty
    lower = low.to(tl.int64).to(tl.float64, bitcast=True).to(REAL)
    upper = high.to(tl.int64).to(tl.float64, bitcast=True).to(REAL)
    at = base + local
    by_row = coefficients + row * terms if BY_ROW else coefficients
    if NOISE:
        seed, sample = keys(seeds, sample_ids, row, rows, SEED_PER_ROW, MIXED)
    for i in range(first, last):
        target = tl.load(lines + 4 * i)
        begin = tl.load(lines + 4 * i + 1)
        end = tl.load(lines + 4 * i + 2)
        clipped = tl.load(lines + 4 * i + 3)
        total = tl.full([BLOCK, WIDTH], 0.0, REAL)
        for t in range(begin, end):
            source = tl.load(sources + t)
            if BY_ROW and MIXED:
                c = tl.load(by_row + t, mask=inside, other=0.0).to(REAL)[:, None]
            else:
                c = tl.load(by_row + t).to(REAL)
            if NOISE:
                if source < 0:
                    draw = tl.load(draws - 1 - source).to(tl.uint32)
                    z = group_normals(group, sample, seed, draw, stream.to(tl.uint32), WIDTH)
                    x = z.to(REAL)
                else:
                    x = tl.load(work + source * stride + at, mask=mask, other=0.0)
            else:
                x = tl.load(work + source * stride + at, mask=mask, other=0.0)
            total = tl.where(c == 0, total, total + c * x)
        if clipped != 0:
            total = tl.where(total < lower, lower, total)  # NaN passes through both comparisons
            total = tl.where(total > upper, upper, total)
        tl.store(work + target * stride + at, total, mask=mask)
        tl.debug_barrier()
