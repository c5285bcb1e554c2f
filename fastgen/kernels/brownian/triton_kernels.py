"""The device code of the virtual Brownian tree: `fastgen.kernels.brownian.reference`.

A thread takes groups of four elements of one sample at one time and goes down its 24 levels; the
normals of a level come from the noise contract. Everything but them is float64.
"""

# mypy: disable-error-code="assignment"
import triton
import triton.language as tl

from fastgen.kernels.triton_support.elements import keys, locate
from fastgen.kernels.triton_support.noise import group_normals


@triton.jit
def node_normals(group, sample, seed, node, stream, GROUPS: tl.constexpr):
    """Normals of a tree's nodes, float64 [GROUPS, 4]."""
    return group_normals(group, sample, seed, node.to(tl.uint32), stream, 4).to(tl.float64)


@triton.jit(
    do_not_specialize=("rows", "elements", "stream"),
    do_not_specialize_on_alignment=("seeds", "sample_ids", "times"),
)
def brownian_kernel(
    output,
    seeds,
    sample_ids,
    times,
    rows: tl.int64,
    elements: tl.int64,
    stream: tl.int64,
    SEED_PER_ROW: tl.constexpr,
    TIME_PER_ROW: tl.constexpr,
    BLOCK: tl.constexpr,
    FLAT: tl.constexpr,
    MIXED: tl.constexpr,
    EXACT: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """W at one time for each row of the grid."""
    row, group, base, local, _, mask = locate(rows, elements, 4, BLOCK, FLAT, MIXED, EXACT)
    known = row < rows
    seed, sample = keys(seeds, sample_ids, row, rows, SEED_PER_ROW, MIXED)
    number = tl.program_id(1).to(tl.int64)
    if TIME_PER_ROW:
        time = tl.load(times + number * rows + row, mask=known, other=0.0)
    else:
        time = tl.load(times + number)
    OWN: tl.constexpr = TIME_PER_ROW and MIXED
    family = stream.to(tl.uint32)
    inside = (time >= 0) & (time <= 1)
    scaled = tl.where(inside, time, 0.0) * (1 << DEPTH)
    cell = tl.minimum(scaled.to(tl.int64), (1 << DEPTH) - 1)
    first = cell * 0
    end = node_normals(group, sample, seed, first, family, BLOCK)
    left, right = tl.full([BLOCK, 4], 0.0, tl.float64), end
    root_half = (first + 0x3FE6A09E667F3BCD).to(tl.float64, bitcast=True)  # sqrt(1/2)
    for level in range(DEPTH):
        node = (first + 1 << level) + (cell >> (DEPTH - level))
        # sqrt(2^-level) / 2: a power of two by its bits, times sqrt(1/2) on odd levels.
        power = ((first + (1022 - level // 2)) << 52).to(tl.float64, bitcast=True)
        scale = tl.where(first + level % 2 == 0, power, root_half * power)
        z = node_normals(group, sample, seed, node, family, BLOCK)
        upper = ((cell >> (DEPTH - 1 - level)) & 1) != 0
        if OWN:
            scale, upper = scale[:, None], upper[:, None]
        middle = (left + right) * 0.5 + scale * z
        left = tl.where(upper, middle, left)
        right = tl.where(upper, right, middle)
    u = scaled - cell.to(tl.float64)
    inner = (first + ((1023 - DEPTH // 2) << 52)).to(tl.float64, bitcast=True)
    if DEPTH % 2 == 1:
        inner = root_half * inner
    scale = tl.sqrt(u * (1 - u)) * inner
    z = node_normals(group, sample, seed, (1 << DEPTH) + cell, family, BLOCK)
    if OWN:
        u, scale, inside = u[:, None], scale[:, None], inside[:, None]
    w = (left + u * (right - left)) + scale * z
    w = tl.where(u == 0, left, w)
    w = tl.where(u == 1, end, w)  # t = 1, which no cell begins with
    w = tl.where(inside, w, float("nan"))
    if EXACT:  # in a form from which the compiler sees that it is a multiple of four
        base += number * (rows * (elements // 4)) * 4
    else:
        base += number * (rows * elements)
    tl.store(output + base + local, w, mask=mask)
