"""The device code of the tree with space-time Levy area: `fastgen.kernels.brownian.area_reference`.

The walk is that of `brownian_kernel`, with the integral and the area of the interval.
"""

# mypy: disable-error-code="assignment"
import math

import triton
import triton.language as tl

from fastgen.kernels.brownian.contract import AREA_NODES
from fastgen.kernels.brownian.triton_kernels import node_normals
from fastgen.kernels.triton_support.elements import keys, locate
from fastgen.kernels.triton_support.launch import bits

# As bits: a literal would be rounded to float32.
ROOT_2 = tl.constexpr(bits(math.sqrt(1.0 / 2)))
ROOT_3 = tl.constexpr(bits(math.sqrt(1.0 / 3)))
ROOT_12 = tl.constexpr(bits(math.sqrt(1.0 / 12)))
ROOT_48 = tl.constexpr(bits(math.sqrt(1.0 / 48)))
SECOND = tl.constexpr(AREA_NODES)


@triton.jit
def _number(zero, bits):
    return (zero + bits).to(tl.float64, bitcast=True)


@triton.jit
def _root(zero, level):
    """sqrt(2^-level): a power of two by its bits, times sqrt(1/2) on odd levels."""
    power = ((zero + (1023 - level // 2)) << 52).to(tl.float64, bitcast=True)
    return tl.where(zero + level % 2 == 0, power, _number(zero, ROOT_2) * power)


@triton.jit(
    do_not_specialize=("rows", "elements", "stream", "stride"),
    do_not_specialize_on_alignment=("seeds", "sample_ids", "times"),
)
def brownian_area_kernel(
    output,
    seeds,
    sample_ids,
    times,
    rows: tl.int64,
    elements: tl.int64,
    stream: tl.int64,
    stride: tl.int64,
    SEED_PER_ROW: tl.constexpr,
    TIME_PER_ROW: tl.constexpr,
    BLOCK: tl.constexpr,
    FLAT: tl.constexpr,
    MIXED: tl.constexpr,
    EXACT: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """W, and `stride` elements further its integral, at one time for each row of the grid."""
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
    zero = cell * 0
    end = node_normals(group, sample, seed, zero, family, BLOCK)
    other = node_normals(group, sample, seed, zero + SECOND, family, BLOCK)
    scale = _number(zero, ROOT_12)
    if OWN:
        scale = scale[:, None]
    area = scale * other
    whole = area + end * 0.5  # the integral up to 1
    left, right = tl.full([BLOCK, 4], 0.0, tl.float64), end
    integral = left
    for level in range(DEPTH):
        node = (zero + 1 << level) + (cell >> (DEPTH - level))
        root = _root(zero, level)
        half = ((zero + (1022 - level)) << 52).to(tl.float64, bitcast=True)
        scale, area_scale = root * 0.25, root * _number(zero, ROOT_48)
        upper = ((cell >> (DEPTH - 1 - level)) & 1) != 0
        z = node_normals(group, sample, seed, node, family, BLOCK)
        other = node_normals(group, sample, seed, node + SECOND, family, BLOCK)
        if OWN:
            scale, area_scale = scale[:, None], area_scale[:, None]
            half, upper = half[:, None], upper[:, None]
        shift, apart = scale * z, area_scale * other
        w = (left + right) * 0.5 + (1.5 * area + shift)
        middle = area * 0.25 - shift * 0.5
        lower = middle + apart
        up_to = integral + half * (lower + (left + w) * 0.5)
        area = tl.where(upper, middle - apart, lower)
        integral = tl.where(upper, up_to, integral)
        left = tl.where(upper, w, left)
        right = tl.where(upper, right, w)
    p = scaled - cell.to(tl.float64)
    length = ((zero + (1023 - DEPTH)) << 52).to(tl.float64, bitcast=True)
    root = _root(zero, DEPTH)
    q = 1 - p
    pq = p * q
    cubes, product = tl.sqrt(1 - 3 * pq), tl.sqrt(pq)
    scale, ratio = (product * cubes) * root, (product / cubes) * (root * 0.5)
    back, area_scale = ratio * (p * p), (ratio * q) * _number(zero, ROOT_3)
    z = node_normals(group, sample, seed, (1 << DEPTH) + cell, family, BLOCK)
    other = node_normals(group, sample, seed, (1 << DEPTH) + cell + SECOND, family, BLOCK)
    if OWN:
        p, pq, length, scale = p[:, None], pq[:, None], length[:, None], scale[:, None]
        back, area_scale, inside = back[:, None], area_scale[:, None], inside[:, None]
    w = (left + p * (right - left)) + ((6 * pq) * area + scale * z)
    h = ((p * p) * area - back * z) + area_scale * other
    up_to = integral + (p * length) * (h + (left + w) * 0.5)
    w = tl.where(p == 1, end, tl.where(p == 0, left, w))
    up_to = tl.where(p == 1, whole, tl.where(p == 0, integral, up_to))
    if EXACT:  # in a form from which the compiler sees that it is a multiple of four
        base += number * (rows * (elements // 4)) * 4
    else:
        base += number * (rows * elements)
    tl.store(output + base + local, tl.where(inside, w, float("nan")), mask=mask)
    output += stride
    tl.store(output + base + local, tl.where(inside, up_to, float("nan")), mask=mask)
