"""The pairwise reductions in Triton: a program takes some rows and streams all columns past them.

Tiles of columns come in a fixed order and have the contract's width, so that sums and samples
depend on nothing but the problem. Inner products run on tensor cores; scores are in units of
log 2.
"""

# mypy: disable-error-code="assignment"
import triton
import triton.language as tl

# tl.max, tl.sum and tl.cumsum are made of these. They are kernels themselves, compiled or
# interpreted as Triton was when it was first imported; reductions over these are built in.
from triton.language.standard import _elementwise_max, _elementwise_min, _sum_combine

from fastgen.kernels.triton_support.noise import philox

# Integers that Triton would otherwise make constants (1) or specialise (multiples of 16).
SCALARS = ("rows", "columns", "dims", "features", "draw", "stream")
LOG_SUM, MEAN, BEST, SAMPLE = range(4)


@triton.jit(do_not_specialize=SCALARS)
def pairs_kernel(
    x,
    y,
    bias,
    scale,
    values,
    seeds,
    sample_ids,
    log_sum,
    mean,
    column,
    rows: tl.int64,
    columns: tl.int64,
    dims: tl.int64,
    features: tl.int64,
    draw: tl.int64,
    stream: tl.int64,
    WANT: tl.constexpr,
    SEED_PER_ROW: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    DEPTH: tl.constexpr,
    FEATURES: tl.constexpr,
    QUADS: tl.constexpr,
    FEATURE_QUADS: tl.constexpr,
):
    """`fastgen.kernels.pairwise.reference`, for float32. WANT: 0 sum, 1 mean, 2 best, 3 sample.

    scale: where the float32 scale / log 2 lies; bias is in units of log 2. Program (i, e) takes
    rows ROWS i .. and, for means, features FEATURES e .. . QUADS: 4 divides dims, so that points
    are read 16 bytes at a time; FEATURE_QUADS: the features, so that values are.
    """
    if QUADS:
        dims = dims // 4 * 4
    if FEATURE_QUADS:
        features = features // 4 * 4
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    known = row < rows
    feature = tl.program_id(1).to(tl.int64) * FEATURES + tl.arange(0, FEATURES)
    lane = tl.arange(0, TILE)
    depth = tl.arange(0, DEPTH)
    factor = tl.load(scale)
    high = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.full((ROWS,), 0, tl.float32)
    chosen = tl.full((ROWS,), 0, tl.int64)
    if WANT == 1:
        sums = tl.full((ROWS, FEATURES), 0, tl.float32)
    if WANT == 3:
        if SEED_PER_ROW:
            seed = tl.load(seeds + row, mask=known, other=0)
        else:
            seed = tl.load(seeds + row * 0)
        sample = tl.load(sample_ids + row, mask=known, other=0)
    for first in range(0, columns, TILE):
        place = first + lane
        inside = place < columns
        s = tl.full((ROWS, TILE), 0, tl.float32)
        for k in range(0, dims, DEPTH):
            d = k + depth
            a = tl.load(
                x + row[:, None] * dims + d[None, :],
                mask=known[:, None] & (d < dims)[None, :],
                other=0.0,
            )
            b = tl.load(
                y + place[None, :] * dims + d[:, None],
                mask=inside[None, :] & (d < dims)[:, None],
                other=0.0,
            )
            s = tl.dot(a, b, s, input_precision=PRECISION)
        h = tl.load(bias + place, mask=inside, other=float("-inf"))
        s = s * factor + h[None, :]
        top = tl.reduce(s, 1, _elementwise_max)
        if WANT == 2:
            here = tl.reduce(tl.where(s == top[:, None], lane[None, :], TILE), 1, _elementwise_min)
            chosen = tl.where(top > high, first + here, chosen)
            high = tl.maximum(high, top)
        else:
            new = tl.maximum(high, top)
            keep = tl.exp2(high - new)
            p = tl.exp2(s - new[:, None])
            part = tl.reduce(p, 1, _sum_combine)
            total = total * keep + part
            high = new
            if WANT == 1:
                v = tl.load(
                    values + place[:, None] * features + feature[None, :],
                    mask=inside[:, None] & (feature < features)[None, :],
                    other=0.0,
                )
                sums = tl.dot(p, v, sums * keep[:, None], input_precision=PRECISION)
            if WANT == 3:
                tile = first // TILE
                block = tile // 2
                upper = ((block >> 32).to(tl.uint32) & 0xFF) << 8
                last = stream.to(tl.uint32) | upper | ((sample >> 32).to(tl.uint32) << 16)
                w0, w1, w2, w3 = philox(
                    (block + row * 0).to(tl.uint32),
                    sample.to(tl.uint32),
                    (draw + row * 0).to(tl.uint32),
                    last,
                    seed.to(tl.uint32),
                    (seed >> 32).to(tl.uint32),
                )
                odd = tile % 2 == 1
                u = (tl.where(odd, w2, w0).to(tl.float32) + 0.5) * 2.3283064365386963e-10
                v = (tl.where(odd, w3, w1).to(tl.float32) + 0.5) * 2.3283064365386963e-10
                running = tl.associative_scan(p, 1, _sum_combine)
                # Where the terms have weight, and before the sum passes its share v.
                last_place = tl.reduce(tl.where(p > 0, lane[None, :], 0), 1, _elementwise_max)
                share = tl.reduce((running <= (v * part)[:, None]).to(tl.int32), 1, _sum_combine)
                pick = tl.minimum(share, last_place)
                chosen = tl.where(u * total < part, first + pick, chosen)
    if WANT == 2:
        result = high * 0.6931471805599453
    else:
        result = (high + tl.log2(total)) * 0.6931471805599453
    tl.store(log_sum + row, result.to(tl.float64), mask=known)
    if WANT == 1:
        tl.store(
            mean + row[:, None] * features + feature[None, :],
            sums / total[:, None],
            mask=known[:, None] & (feature < features)[None, :],
        )
    if WANT >= 2:
        tl.store(column + row, chosen, mask=known)
