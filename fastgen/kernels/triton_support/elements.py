"""Device functions of all kernels on [rows, elements]: which of them a program takes, and rounding.

Tensors are contiguous [rows, elements]. A row is cut into groups of WIDTH elements, of which a
thread takes one or two; WIDTH times the element size is what one access moves, and noise blocks
(four elements) restart with every row. `geometry.Geometry` says how a call is cut.
"""

# mypy: disable-error-code="assignment"
import triton
import triton.language as tl

# Arguments that are read one number at a time, so that 16-byte addresses bring nothing.
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
    # Sizes are not negative: unsigned quotients take half the instructions.
    groups = ((elements + (WIDTH - 1)).to(tl.uint64) // WIDTH).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    column = tl.arange(0, WIDTH)[None, :]
    local = lane[:, None] * WIDTH + column
    if MIXED:
        # Rows are short here, so that all divisions are of 32 bits, far cheaper than of 64.
        short = groups.to(tl.uint32)
        program = tl.program_id(0).to(tl.uint32)
        ahead = (program % short) * BLOCK
        first_row = (program // short).to(tl.int64) * BLOCK + (ahead // short).to(tl.int64)
        start = tl.program_id(0).to(tl.int64) * BLOCK
        place = ahead % short + lane.to(tl.uint32)
        passed = place // short
        steps = passed.to(tl.int32)
        row = first_row + steps
        group = (place - passed * short).to(tl.int64)
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
            tiles = ((groups + (BLOCK - 1)).to(tl.uint64) // BLOCK).to(tl.uint32)
            program = tl.program_id(0).to(tl.uint32)
            row = (program // tiles).to(tl.int64)
            start = (program % tiles).to(tl.int64) * BLOCK
        group = start + lane
        inside = group < groups
        base = (row * groups + start) * WIDTH if EXACT else row * elements + start * WIDTH
    mask = inside[:, None]
    if not EXACT:
        mask = mask & (group[:, None] * WIDTH + column < elements)
    return row, group, base, local, inside, mask


@triton.jit
def keys(seeds, sample_ids, row, rows, SEED_PER_ROW: tl.constexpr, MIXED: tl.constexpr):
    """Seeds and sample ids of the rows of `locate`; unless these are mixed, there are such rows."""
    if MIXED:
        known = row < rows
        seed = tl.load(seeds + row, mask=known, other=0) if SEED_PER_ROW else tl.load(seeds)
        sample = tl.load(sample_ids + row, mask=known, other=0)
    else:
        seed = tl.load(seeds + row) if SEED_PER_ROW else tl.load(seeds)
        sample = tl.load(sample_ids + row)
    return seed, sample


@triton.jit
def rounded(x, KIND: tl.constexpr):
    """x in dtype KIND. float64 goes to 16 bits by way of float32, as it does in PyTorch."""
    if x.dtype == tl.float64 and KIND.primitive_bitwidth == 16:
        x = x.to(tl.float32)
    return x.to(KIND)
