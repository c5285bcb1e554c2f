"""The device code of `combine`: the sums of a stage.

Tensors come as tuples, so that one source serves every number and dtype of them and Triton's own
cache holds one binary for each combination; all loops over them unroll. Coefficients, keys and draw
ids are read from device memory: nothing that changes between the stages or runs of a sampler is an
argument by value.
"""

# mypy: disable-error-code="assignment"
import triton
import triton.language as tl

from fastgen.kernels.triton_support.elements import TABLES, keys, locate, rounded
from fastgen.kernels.triton_support.noise import group_normals

# Integers that Triton would otherwise make constants (1) or specialise (multiples of 16).
SCALARS = ("rows", "elements", "low", "high", "stream")


@triton.jit
def weighted_sum(terms, coefficients, inside, BY_GROUP: tl.constexpr, REAL: tl.constexpr):
    """sum_i c_i x_i from left to right, without the terms whose coefficient is zero.

    coefficients: where the float64 c_0 lies; BY_GROUP: a block of such places, one to a group.
    """
    for i in tl.static_range(len(terms)):
        if BY_GROUP:
            c = tl.load(coefficients + i, mask=inside, other=0.0).to(REAL)[:, None]
        else:
            c = tl.load(coefficients + i).to(REAL)
        if i == 0:
            total = tl.where(c == 0, 0.0, c * terms[i])
        else:
            total = tl.where(c == 0, total, total + c * terms[i])
    return total


@triton.jit
def mixed(p, q, m):
    """p, and q where it is known: bytes say so, or weights that may lie between 0 and 1."""
    if m.dtype == tl.int1:
        y = tl.where(m, q, p)
    else:
        m = m.to(p.dtype)
        between = tl.where(m < 0.5, p + m * (q - p), q - (q - p) * (1.0 - m))
        y = tl.where(m <= 0.0, p, tl.where(m >= 1.0, q, between))
    return y


@triton.jit(do_not_specialize=SCALARS, do_not_specialize_on_alignment=TABLES)
def combine_kernel(
    inputs,
    outputs,
    table,
    seeds,
    sample_ids,
    draws,
    values,
    weights,
    rows: tl.int64,
    elements: tl.int64,
    low: tl.int64,
    high: tl.int64,
    stream: tl.int64,
    NOISES: tl.constexpr,
    CLIP: tl.constexpr,
    TABLE_PER_ROW: tl.constexpr,
    SEED_PER_ROW: tl.constexpr,
    DRAWS_PER_ROW: tl.constexpr,
    KNOWN: tl.constexpr,
    REAL: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    FLAT: tl.constexpr,
    MIXED: tl.constexpr,
    EXACT: tl.constexpr,
):
    """One stage: `fastgen.kernels.combine.reference`.

    low and high are the bits of float64 bounds: floating-point arguments arrive as float32 from
    some launchers. KNOWN: 0 where nothing is, else 1, 1 more for values of each row, 2 more for a
    mask of each row. Everything is read before anything is written, since outputs may be inputs.
    """
    row, group, base, local, inside, mask = locate(rows, elements, WIDTH, BLOCK, FLAT, MIXED, EXACT)
    terms = ()
    for i in tl.static_range(len(inputs)):
        x = tl.load(inputs[i] + base + local, mask=mask)
        x = x.to(tl.float32).to(REAL) if x.dtype != tl.float64 else x
        terms = terms + (x,)  # noqa: RUF005 (Triton has no starred tuples)
    columns: tl.constexpr = len(inputs) + CLIP + NOISES + (KNOWN > 0)
    sums: tl.constexpr = CLIP + len(outputs) * (1 + (KNOWN > 0))
    BY_GROUP: tl.constexpr = TABLE_PER_ROW and MIXED
    coefficients = table
    if TABLE_PER_ROW:
        coefficients = table + row * (sums * columns)
    if CLIP:
        d = weighted_sum(terms, coefficients, inside, BY_GROUP, REAL)
        lower = low.to(tl.int64).to(tl.float64, bitcast=True).to(REAL)
        upper = high.to(tl.int64).to(tl.float64, bitcast=True).to(REAL)
        d = tl.where(d < lower, lower, d)  # NaN passes through both comparisons
        d = tl.where(d > upper, upper, d)
        terms = terms + (d,)  # noqa: RUF005
    if NOISES > 0:
        known = row < rows
        seed, sample = keys(seeds, sample_ids, row, rows, SEED_PER_ROW, MIXED)
        numbers = draws + row * NOISES if DRAWS_PER_ROW else draws
        for k in tl.static_range(NOISES):
            if DRAWS_PER_ROW:
                draw = tl.load(numbers + k, mask=known, other=0).to(tl.uint32)
            else:
                draw = tl.load(numbers + k).to(tl.uint32)
            z = group_normals(group, sample, seed, draw, stream.to(tl.uint32), WIDTH)
            terms = terms + (z.to(REAL),)  # noqa: RUF005
    if KNOWN > 0:
        whole = base + local
        shared = whole
        if not FLAT:  # the place in a row
            shared = group[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
        v = tl.load(values + (whole if KNOWN == 2 or KNOWN == 4 else shared), mask=mask)
        v = v.to(tl.float32).to(REAL) if v.dtype != tl.float64 else v.to(REAL)
        terms = terms + (v,)  # noqa: RUF005
        m = tl.load(weights + (whole if KNOWN > 2 else shared), mask=mask)
    for j in tl.static_range(len(outputs)):
        at = coefficients + (j + CLIP) * columns
        y = weighted_sum(terms, at, inside, BY_GROUP, REAL)
        if KNOWN > 0:
            other = at + len(outputs) * columns
            y = mixed(y, weighted_sum(terms, other, inside, BY_GROUP, REAL), m)
        place = outputs[j] + base + local
        tl.store(place, rounded(y, outputs[j].dtype.element_ty), mask=mask)
