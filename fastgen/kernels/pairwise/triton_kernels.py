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


@triton.jit
def points(x, row, known, dims, d):
    """Rows of x at dimensions d, zeros where there is none: [len(row), len(d)]."""
    at = row[:, None] * dims + d[None, :]
    return tl.load(x + at, mask=known[:, None] & (d < dims)[None, :], other=0.0)


@triton.jit
def keys(seeds, sample_ids, row, known, SEED_PER_ROW: tl.constexpr):
    """Seeds and sample ids of rows."""
    # With one seed every row reads it.
    seed = tl.load(seeds + (row if SEED_PER_ROW else row * 0), mask=known, other=0)
    return seed, tl.load(sample_ids + row, mask=known, other=0)


@triton.jit
def pick(p, part, total, chosen, first, seed, sample, draw, stream, TILE: tl.constexpr):
    """Samples of rows after a tile with the terms p, of which part is the sum."""
    lane = tl.arange(0, TILE)
    tile = first // TILE
    block = tile // 2
    upper = ((block >> 32).to(tl.uint32) & 0xFF) << 8
    last = stream.to(tl.uint32) | upper | ((sample >> 32).to(tl.uint32) << 16)
    w0, w1, w2, w3 = philox(
        (block + sample * 0).to(tl.uint32),
        sample.to(tl.uint32),
        (draw + sample * 0).to(tl.uint32),
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
    return tl.where(u * total < part, first + tl.minimum(share, last_place), chosen)


@triton.jit
def take(
    s,
    first,
    values,
    state,
    key,
    draw,
    stream,
    WANT: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
):
    """The state of rows, (largest score, sum of terms, column, sums of values), after a tile.

    s: their scores with columns first, ... in units of log 2; values: the columns'.
    """
    high, total, chosen, sums = state
    lane = tl.arange(0, TILE)
    top = tl.reduce(s, 1, _elementwise_max)
    new = tl.maximum(high, top)
    if WANT == 2:
        here = tl.reduce(tl.where(s == top[:, None], lane[None, :], TILE), 1, _elementwise_min)
        chosen = tl.where(top > high, first + here, chosen)
    else:
        keep = tl.exp2(high - new)
        p = tl.exp2(s - new[:, None])
        part = tl.reduce(p, 1, _sum_combine)
        total = total * keep + part
        if WANT == 1:
            sums = tl.dot(p, values, sums * keep[:, None], input_precision=PRECISION)
        if WANT == 3:
            chosen = pick(p, part, total, chosen, first, key[0], key[1], draw, stream, TILE)
    return new, total, chosen, sums


@triton.jit
def give(state, row, known, log_sum, mean, column, feature, features, WANT: tl.constexpr):
    """Store what is wanted of rows."""
    high, total, chosen, sums = state
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
    TWICE: tl.constexpr,
    TILE: tl.constexpr,
    DEPTH: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """`fastgen.kernels.pairwise.reference`, for float32. WANT: 0 sum, 1 mean, 2 best, 3 sample.

    scale: where the float32 scale / log 2 lies; bias is in units of log 2. x, y and values have
    rows of whole 16 bytes: behind dims and features there are zeros up to a multiple of four.
    Program (i, e) takes ROWS rows, or twice as many, which share what is read of the columns,
    and, for means, features FEATURES e .. .
    """
    dims = (dims + 3) // 4 * 4
    stride = (features + 3) // 4 * 4
    row = tl.program_id(0).to(tl.int64) * (2 * ROWS if TWICE else ROWS) + tl.arange(0, ROWS)
    known = row < rows
    # The second half of the rows, where there is one.
    other = row + ROWS
    present = other < rows
    feature = tl.program_id(1).to(tl.int64) * FEATURES + tl.arange(0, FEATURES)
    factor = tl.load(scale)
    high = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.full((ROWS,), 0, tl.float32)
    chosen = tl.full((ROWS,), 0, tl.int64)
    sums = tl.full((ROWS, FEATURES), 0, tl.float32) if WANT == 1 else total
    state = high, total, chosen, sums
    second = high, total, chosen, sums
    key, other_key = (0, 0), (0, 0)
    if WANT == 3:
        key = keys(seeds, sample_ids, row, known, SEED_PER_ROW)
        if TWICE:
            other_key = keys(seeds, sample_ids, other, present, SEED_PER_ROW)
    for first in range(0, columns, TILE):
        place = first + tl.arange(0, TILE)
        inside = place < columns
        s = tl.full((ROWS, TILE), 0, tl.float32)
        t = s
        for k in range(0, dims, DEPTH):
            d = k + tl.arange(0, DEPTH)
            b = tl.trans(points(y, place, inside, dims, d))
            s = tl.dot(points(x, row, known, dims, d), b, s, input_precision=PRECISION)
            if TWICE:
                a = points(x, other, present, dims, d)
                t = tl.dot(a, b, t, input_precision=PRECISION)
        h = tl.load(bias + place, mask=inside, other=float("-inf"))[None, :]
        v = h
        if WANT == 1:
            v = points(values, place, inside, stride, feature)
        s = s * factor + h
        state = take(s, first, v, state, key, draw, stream, WANT, PRECISION, TILE)
        if TWICE:
            t = t * factor + h
            second = take(t, first, v, second, other_key, draw, stream, WANT, PRECISION, TILE)
    give(state, row, known, log_sum, mean, column, feature, features, WANT)
    if TWICE:
        give(second, other, present, log_sum, mean, column, feature, features, WANT)
