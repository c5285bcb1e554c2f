"""Device code of error-controlled steps: `fastgen.kernels.runge_kutta.reference`.

control is float64 [9, capacity] and count int64 [6, capacity]; the rows of these tables are those
of `runge_kutta.contract.Control` and `Count`. A program has one tile of one row, so that no row
depends on another; of long rows each tile leaves its part of the error's norm. What commit reads
and also writes, control has copied to held: float64 [2, capacity] (time, step) and held_count
int64 [2, capacity] (status, cursor), so that no tile waits for another. USED has a bit for every
stage whose weight is not zero: the others are not read.
"""

# mypy: disable-error-code="assignment"
import triton
import triton.language as tl

TIME: tl.constexpr = tl.constexpr(0)
STEP: tl.constexpr = tl.constexpr(1)
END: tl.constexpr = tl.constexpr(2)
RTOL: tl.constexpr = tl.constexpr(3)
ATOL: tl.constexpr = tl.constexpr(4)
ERROR: tl.constexpr = tl.constexpr(5)
ERROR_1: tl.constexpr = tl.constexpr(6)
ERROR_2: tl.constexpr = tl.constexpr(7)
PROPOSAL: tl.constexpr = tl.constexpr(8)
STATUS: tl.constexpr = tl.constexpr(0)
ACCEPTED: tl.constexpr = tl.constexpr(1)
REJECTED: tl.constexpr = tl.constexpr(2)
CURSOR: tl.constexpr = tl.constexpr(3)
ROW: tl.constexpr = tl.constexpr(4)
TAKEN: tl.constexpr = tl.constexpr(5)
DONE: tl.constexpr = tl.constexpr(1)
MAX_STEPS: tl.constexpr = tl.constexpr(3)
UNDERFLOW: tl.constexpr = tl.constexpr(4)
NON_FINITE: tl.constexpr = tl.constexpr(5)

# Integers whose values must not compile a new kernel.
SCALARS = ("tiles", "capacity", "elements", "segments", "outputs", "output_stride", "max_steps")
SCALARS = (*SCALARS, "live_stride")
TABLES = ("a", "c", "error", "dense", "control", "count", "times", "numbers", "segment_ends")
TABLES = (*TABLES, "live", "held", "held_count", "partial", "tile_ends", "first_tiles")


@triton.jit
def add(a, b):
    """For reductions: Triton's own sum cannot be interpreted where it was imported before."""
    return a + b


@triton.jit
def finite(x):
    """Neither infinite nor NaN."""
    return tl.abs(x) < float("inf")


@triton.jit
def power(x, exponent):
    """x^exponent for x > 0, in float64."""
    return tl.exp(exponent * tl.log(x))


@triton.jit
def row_and_tile(tiles):
    """What this program has: its row, and the tile of it."""
    count = tiles.to(tl.int32)
    row, tile = tl.program_id(0) // count, tl.program_id(0) % count
    return row.to(tl.int64), tile.to(tl.int64)


@triton.jit
def squared_ratios(
    y,
    y_new,
    k,
    error,
    control,
    r,
    begin,
    end,
    capacity,
    elements,
    COUNT: tl.constexpr,
    USED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """(error / scale)^2 of a row's elements begin .. end, summed by lanes in float64, [BLOCK]."""
    h = tl.load(control + STEP * capacity + r)
    rtol = tl.load(control + RTOL * capacity + r)
    atol = tl.load(control + ATOL * capacity + r)
    lanes = tl.full([BLOCK], 0.0, tl.float64)
    for at in range(begin, end, BLOCK):
        e = at + tl.arange(0, BLOCK)
        mask = e < end
        old = tl.load(y + r * elements + e, mask=mask, other=1.0)
        new = tl.load(y_new + r * elements + e, mask=mask, other=1.0)
        total = old * 0
        for j in tl.static_range(COUNT):
            if (USED >> j) & 1:
                w = (h * tl.load(error + j)).to(old.dtype)
                slope = tl.load(k + (j * capacity + r) * elements + e, mask=mask, other=0.0)
                term = w * slope
                total = total + term
        larger = tl.maximum(tl.abs(old), tl.abs(new))
        scale = atol.to(old.dtype) + rtol.to(old.dtype) * larger
        # Through float64: there is no other division that rounds once for both dtypes.
        quotient = (total.to(tl.float64) / scale.to(tl.float64)).to(old.dtype)
        ratio = tl.where(total == 0, total * 0, quotient).to(tl.float64)
        ratio = tl.where(mask, ratio, 0.0)
        lanes += ratio * ratio
    return lanes


@triton.jit(do_not_specialize=SCALARS, do_not_specialize_on_alignment=TABLES)
def error_kernel(
    y,
    y_new,
    k,
    error,
    control,
    tile_ends,
    partial,
    tiles: tl.int64,
    capacity: tl.int64,
    elements: tl.int64,
    COUNT: tl.constexpr,
    USED: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """partial [rows, tiles]: each tile's part of the sums in the error's norm.

    tile_ends: [begin, end) of each tile, which is within one segment.
    """
    r, tile = row_and_tile(tiles)
    begin, end = tl.load(tile_ends + 2 * tile), tl.load(tile_ends + 2 * tile + 1)
    lanes = squared_ratios(
        y, y_new, k, error, control, r, begin, end, capacity, elements, COUNT, USED, BLOCK
    )
    tl.store(partial + r * tiles + tile, tl.reduce(lanes, 0, add))


@triton.jit(do_not_specialize=SCALARS, do_not_specialize_on_alignment=TABLES)
def stage_kernel(
    y,
    k,
    stage,
    y_new,
    stage_times,
    a,
    c,
    control,
    tiles: tl.int64,
    capacity: tl.int64,
    elements: tl.int64,
    COUNT: tl.constexpr,
    USED: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """stage = y + h sum_j a_j k_j, stage_times = t + c h; a and c are those of the stage."""
    r, tile = row_and_tile(tiles)
    h = tl.load(control + STEP * capacity + r)
    e = tile * BLOCK + tl.arange(0, BLOCK)
    mask = e < elements
    total = tl.load(y + r * elements + e, mask=mask)
    for j in tl.static_range(COUNT):
        if (USED >> j) & 1:
            w = (h * tl.load(a + j)).to(total.dtype)
            slope = tl.load(k + (j * capacity + r) * elements + e, mask=mask)
            total = tl.where(h == 0, total, total + w * slope)
    tl.store(stage + r * elements + e, total, mask=mask)
    if LAST:
        tl.store(y_new + r * elements + e, total, mask=mask)
    if tile == 0:
        time = tl.load(control + TIME * capacity + r) + tl.load(c) * h
        tl.store(stage_times + r, time.to(total.dtype))


@triton.jit(do_not_specialize=SCALARS, do_not_specialize_on_alignment=TABLES)
def control_kernel(
    y,
    y_new,
    k,
    error,
    segment_ends,
    live,
    control,
    count,
    numbers,
    held,
    held_count,
    first_tiles,
    partial,
    tiles: tl.int64,
    capacity: tl.int64,
    elements: tl.int64,
    segments: tl.int64,
    live_stride: tl.int64,
    COUNT: tl.constexpr,
    USED: tl.constexpr,
    PARTIAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Error, norm, acceptance and next size of one row.

    numbers: safety, smallest and largest factor, shortest and longest step, three exponents.
    PARTIAL: `error_kernel` has run; segment g has the tiles from first_tiles[g] on.
    """
    r = tl.program_id(0).to(tl.int64)
    h = tl.load(control + STEP * capacity + r)
    status = tl.load(count + STATUS * capacity + r)
    running = status == 0
    tl.store(held + r, tl.load(control + TIME * capacity + r))
    tl.store(held + capacity + r, h)
    tl.store(held_count + r, status)
    tl.store(held_count + capacity + r, tl.load(count + CURSOR * capacity + r))
    norm = h * 0
    counts = live + tl.load(count + ROW * capacity + r) * live_stride
    begin = tl.load(segment_ends) * 0
    for g in range(segments):
        end = tl.load(segment_ends + g)
        if PARTIAL:
            lanes = tl.full([BLOCK], 0.0, tl.float64)
            last = tl.load(first_tiles + g + 1)
            for at in range(tl.load(first_tiles + g), last, BLOCK):
                tile = at + tl.arange(0, BLOCK)
                lanes += tl.load(partial + r * tiles + tile, mask=tile < last, other=0.0)
        else:
            lanes = squared_ratios(
                y, y_new, k, error, control, r, begin, end, capacity, elements, COUNT, USED, BLOCK
            )
        there = tl.load(counts + g)
        if there > 0:
            mean = tl.sqrt(tl.reduce(lanes, 0, add) / there.to(tl.float64))
            norm = tl.where(mean <= norm, norm, mean)
        begin = end
    safety, least, most = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2)
    shortest, longest = tl.load(numbers + 3), tl.load(numbers + 4)
    size = tl.abs(h)
    good = finite(norm)
    taken = good & ((norm <= 1) | (size <= shortest)) & running
    e0 = tl.maximum(tl.where(good, norm, 1.0), 1e-10)
    e1 = tl.load(control + ERROR_1 * capacity + r)
    e2 = tl.load(control + ERROR_2 * capacity + r)
    factor = safety * power(e0, -tl.load(numbers + 5))
    factor *= power(e1, -tl.load(numbers + 6)) * power(e2, -tl.load(numbers + 7))
    grown = tl.where(tl.load(control + PROPOSAL * capacity + r) < 0, 1.0, most)
    factor = tl.minimum(tl.maximum(factor, least), tl.where(taken, grown, safety))
    factor = tl.where(good, factor, least)
    size = tl.minimum(tl.maximum(size * factor, shortest), longest)
    tl.store(count + TAKEN * capacity + r, taken.to(tl.int64))
    tl.store(control + ERROR_2 * capacity + r, e1, mask=taken)
    tl.store(control + ERROR_1 * capacity + r, e0, mask=taken)
    tl.store(control + ERROR * capacity + r, norm, mask=running)
    tl.store(control + PROPOSAL * capacity + r, tl.where(taken, size, -size), mask=running)
    which = tl.where(taken, ACCEPTED, REJECTED)
    place = count + which * capacity + r
    tl.store(place, tl.load(place) + 1, mask=running)


@triton.jit(do_not_specialize=SCALARS, do_not_specialize_on_alignment=TABLES)
def commit_kernel(
    y,
    y_new,
    k,
    ys,
    dense,
    times,
    control,
    count,
    held,
    held_count,
    tiles: tl.int64,
    capacity: tl.int64,
    elements: tl.int64,
    outputs: tl.int64,
    output_stride: tl.int64,
    max_steps: tl.int64,
    COUNT: tl.constexpr,
    DEGREE: tl.constexpr,
    USED: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Outputs that an accepted row has passed, its new state, and every row's next step."""
    r, tile = row_and_tile(tiles)
    first = tile * TILE
    behind = tl.minimum(first + TILE, elements)
    running = tl.load(held_count + r) == 0
    taken = (tl.load(count + TAKEN * capacity + r) != 0) & running
    t = tl.load(held + r)
    h = tl.load(held + capacity + r)
    end = tl.load(control + END * capacity + r)
    sample = tl.load(count + ROW * capacity + r)
    t_new = tl.where(h == end - t, end, t + h)
    if taken:
        cursor = tl.load(held_count + capacity + r)
        own = times + sample * output_stride
        at = tl.load(own + cursor, mask=cursor < outputs, other=0.0)
        due = (cursor < outputs) & tl.where(h > 0, at <= t_new, at >= t_new)
        while due:
            theta = (at - t) / h
            for at_element in range(first, behind, BLOCK):
                e = at_element + tl.arange(0, BLOCK)
                mask = e < elements
                total = tl.load(y + r * elements + e, mask=mask)
                for j in tl.static_range(COUNT):
                    if (USED >> j) & 1:
                        b = tl.load(dense + j * DEGREE + DEGREE - 1)
                        for d in tl.static_range(1, DEGREE):
                            b = b * theta + tl.load(dense + j * DEGREE + DEGREE - 1 - d)
                        w = (h * (b * theta)).to(total.dtype)
                        slope = tl.load(k + (j * capacity + r) * elements + e, mask=mask)
                        total = total + w * slope
                last = tl.load(y_new + r * elements + e, mask=mask)
                total = tl.where(at == t_new, last, total)
                tl.store(ys + (cursor * capacity + sample) * elements + e, total, mask=mask)
            cursor += 1
            at = tl.load(own + cursor, mask=cursor < outputs, other=0.0)
            due = (cursor < outputs) & tl.where(h > 0, at <= t_new, at >= t_new)
        if tile == 0:
            tl.store(count + CURSOR * capacity + r, cursor)
        for at_element in range(first, behind, BLOCK):
            e = at_element + tl.arange(0, BLOCK)
            mask = e < elements
            state = tl.load(y_new + r * elements + e, mask=mask)
            slope = tl.load(k + ((COUNT - 1) * capacity + r) * elements + e, mask=mask)
            tl.store(y + r * elements + e, state, mask=mask)
            tl.store(k + r * elements + e, slope, mask=mask)
    if tile == 0:
        time = tl.where(taken, t_new, t)
        size = tl.abs(tl.load(control + PROPOSAL * capacity + r))
        rest = end - time
        step = tl.where(tl.abs(rest) <= 1.01 * size, rest, tl.where(rest < 0, -size, size))
        accepted = tl.load(count + ACCEPTED * capacity + r)
        steps = accepted + tl.load(count + REJECTED * capacity + r)
        good = finite(tl.load(control + ERROR * capacity + r))
        stuck = (time + step == time) | (finite(step) == 0)
        status = tl.where(stuck, tl.where(good, UNDERFLOW, NON_FINITE), 0)
        status = tl.where(steps >= max_steps, MAX_STEPS, status)
        status = tl.where(time == end, DONE, status)
        tl.store(control + TIME * capacity + r, time, mask=running)
        tl.store(control + STEP * capacity + r, tl.where(status == 0, step, 0.0), mask=running)
        tl.store(count + STATUS * capacity + r, status.to(tl.int64), mask=running)
