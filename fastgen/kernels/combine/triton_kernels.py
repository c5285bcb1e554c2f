"""The kernels: which elements a program takes, and the sums of a stage.

Tensors are contiguous [rows, elements]. A row is cut into groups of WIDTH elements, of which a
thread takes one or two; WIDTH times the element size is what one access moves, and noise blocks
(four elements) restart with every row. Tensors come as tuples, so that one source serves every
number and dtype of them and Triton's own cache holds one binary for each combination; all loops
over them unroll. Coefficients, keys and draw ids are read from device memory: nothing that changes
between the stages or runs of a sampler is an argument by value.
"""

# mypy: disable-error-code="assignment"
import triton
import triton.language as tl

from fastgen.kernels.triton_support.noise import group_normals

# Integers that Triton would otherwise make constants (1) or specialise (multiples of 16).
SCALARS = ("rows", "elements", "low", "high", "stream")
# Read one number at a time, so that 16-byte addresses bring nothing.
TABLES = ("table", "seeds", "sample_ids", "draws", "draw")


@triton.jit
def locate(
    rows,
    elements,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    FLAT: tl.constexpr,
    MIXED: tl.constexpr,
    EXACT: tl.constexpr,
):
    """What this program works on: (row, group in the row, address of the first, offsets, masks).

    FLAT: there is one row. MIXED: rows are short, so a program takes BLOCK groups of any rows, and
    row is [BLOCK]; otherwise all its groups are of one row. EXACT: WIDTH divides the elements of a
    row; then the groups lie side by side and the compiler can see that every access is aligned.
    """
    groups = (elements + (WIDTH - 1)) // WIDTH
    lane = tl.arange(0, BLOCK)
    column = tl.arange(0, WIDTH)[None, :]
    local = lane[:, None] * WIDTH + column
    if MIXED:
        # Rows are short here, so that all divisions are of 32 bits, far cheaper than of 64.
        short = groups.to(tl.int32)
        ahead = (tl.program_id(0) % short) * BLOCK
        first_row = (tl.program_id(0) // short).to(tl.int64) * BLOCK + ahead // short
        start = tl.program_id(0).to(tl.int64) * BLOCK
        place = ahead % short + lane
        steps = place // short
        row = first_row + steps
        group = (place - steps * short).to(tl.int64)
        inside = row < rows
        if EXACT:
            base = start * WIDTH
        else:
            base = first_row * elements
            local = (steps * elements + group * WIDTH)[:, None] + column
    else:
        row = rows * 0
        start = tl.program_id(0).to(tl.int64) * BLOCK
        if not FLAT:
            tiles = ((groups + (BLOCK - 1)) // BLOCK).to(tl.int32)
            row = (tl.program_id(0) // tiles).to(tl.int64)
            start = (tl.program_id(0) % tiles).to(tl.int64) * BLOCK
        group = start + lane
        inside = group < groups
        base = (row * groups + start) * WIDTH if EXACT else row * elements + start * WIDTH
    mask = inside[:, None]
    if not EXACT:
        mask = mask & (group[:, None] * WIDTH + column < elements)
    return row, group, base, local, inside, mask


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
def rounded(x, KIND: tl.constexpr):
    """x in dtype KIND. float64 goes to 16 bits by way of float32, as it does in PyTorch."""
    if x.dtype == tl.float64 and KIND.primitive_bitwidth == 16:
        x = x.to(tl.float32)
    return x.to(KIND)


@triton.jit(do_not_specialize=SCALARS, do_not_specialize_on_alignment=TABLES)
def combine_kernel(
    inputs,
    outputs,
    table,
    seeds,
    sample_ids,
    draws,
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
    REAL: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    FLAT: tl.constexpr,
    MIXED: tl.constexpr,
    EXACT: tl.constexpr,
):
    """One stage: `fastgen.kernels.combine.reference`.

    low and high are the bits of float64 bounds: floating-point arguments arrive as float32 from
    some launchers. Everything is read before anything is written, since outputs may be inputs.
    """
    row, group, base, local, inside, mask = locate(rows, elements, WIDTH, BLOCK, FLAT, MIXED, EXACT)
    terms = ()
    for i in tl.static_range(len(inputs)):
        x = tl.load(inputs[i] + base + local, mask=mask)
        x = x.to(tl.float32).to(REAL) if x.dtype != tl.float64 else x
        terms = terms + (x,)  # noqa: RUF005 (Triton has no starred tuples)
    columns: tl.constexpr = len(inputs) + CLIP + NOISES
    BY_GROUP: tl.constexpr = TABLE_PER_ROW and MIXED
    coefficients = table
    if TABLE_PER_ROW:
        coefficients = table + row * ((len(outputs) + CLIP) * columns)
    if CLIP:
        d = weighted_sum(terms, coefficients, inside, BY_GROUP, REAL)
        lower = low.to(tl.int64).to(tl.float64, bitcast=True).to(REAL)
        upper = high.to(tl.int64).to(tl.float64, bitcast=True).to(REAL)
        d = tl.where(d < lower, lower, d)  # NaN passes through both comparisons
        d = tl.where(d > upper, upper, d)
        terms = terms + (d,)  # noqa: RUF005
    if NOISES > 0:
        known = row < rows
        seed = tl.load(seeds + row, mask=known, other=0) if SEED_PER_ROW else tl.load(seeds)
        sample = tl.load(sample_ids + row, mask=known, other=0)
        numbers = draws + row * NOISES if DRAWS_PER_ROW else draws
        for k in tl.static_range(NOISES):
            if DRAWS_PER_ROW:
                draw = tl.load(numbers + k, mask=known, other=0).to(tl.uint32)
            else:
                draw = tl.load(numbers + k).to(tl.uint32)
            z = group_normals(group, sample, seed, draw, stream.to(tl.uint32), WIDTH)
            terms = terms + (z.to(REAL),)  # noqa: RUF005
    for j in tl.static_range(len(outputs)):
        at = coefficients + (j + CLIP) * columns
        y = weighted_sum(terms, at, inside, BY_GROUP, REAL)
        place = outputs[j] + base + local
        tl.store(place, rounded(y, outputs[j].dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=SCALARS, do_not_specialize_on_alignment=TABLES)
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
    known = row < rows
    seed = tl.load(seeds + row, mask=known, other=0) if SEED_PER_ROW else tl.load(seeds)
    sample = tl.load(sample_ids + row, mask=known, other=0)
    number = tl.load(draw).to(tl.uint32)
    z = group_normals(group, sample, seed, number, stream.to(tl.uint32), WIDTH)
    tl.store(output + base + local, rounded(z, output.dtype.element_ty), mask=mask)
