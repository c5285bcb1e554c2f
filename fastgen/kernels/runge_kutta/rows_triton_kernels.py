"""What a program does to its part of a row: device functions of error-controlled steps.

The tables are those of `runge_kutta.contract.Control` and `Count`; see `triton_kernels` for how
they are shared out. USED has a bit for every stage whose weight is not zero: the others are not
read. Where threads read what other threads of their program have written, or write what these have
read, a barrier stands between.
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
    slope,
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
    """(error / scale)^2 of a row's elements begin .. end, summed by lanes in float64, [BLOCK].

    slope: where f at the last stage is; k is given it on the way.
    """
    h = tl.load(control + STEP * capacity + r)
    rtol = tl.load(control + RTOL * capacity + r)
    atol = tl.load(control + ATOL * capacity + r)
    lanes = tl.full([BLOCK], 0.0, tl.float64)
    for at in range(begin, end, BLOCK):
        e = at + tl.arange(0, BLOCK)
        mask = e < end
        old = tl.load(y + r * elements + e, mask=mask, other=1.0)
        new = tl.load(y_new + r * elements + e, mask=mask, other=1.0)
        newest = tl.load(slope + r * elements + e, mask=mask, other=0.0)
        tl.store(k + ((COUNT - 1) * capacity + r) * elements + e, newest, mask=mask)
        total = old * 0
        for j in tl.static_range(COUNT):
            if (USED >> j) & 1:
                w = (h * tl.load(error + j)).to(old.dtype)
                if j == COUNT - 1:
                    term = w * newest
                else:
                    at_j = k + (j * capacity + r) * elements + e
                    term = w * tl.load(at_j, mask=mask, other=0.0)
                total = total + term
        larger = tl.maximum(tl.abs(old), tl.abs(new))
        scale = atol.to(old.dtype) + rtol.to(old.dtype) * larger
        # Through float64: there is no other division that rounds once for both dtypes.
        quotient = (total.to(tl.float64) / scale.to(tl.float64)).to(old.dtype)
        ratio = tl.where(total == 0, total * 0, quotient).to(tl.float64)
        ratio = tl.where(mask, ratio, 0.0)
        lanes += ratio * ratio
    return lanes


@triton.jit
def row_norm(
    slope,
    y,
    y_new,
    k,
    error,
    segment_ends,
    live,
    control,
    count,
    first_tiles,
    partial,
    r,
    tiles,
    capacity,
    elements,
    segments,
    live_stride,
    COUNT: tl.constexpr,
    USED: tl.constexpr,
    PARTIAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The error's norm of one row.

    PARTIAL: its sums are there by tiles; segment g has those from first_tiles[g] on.
    """
    norm = tl.load(control + STEP * capacity + r) * 0
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
                slope, y, y_new, k, error, control,
                r, begin, end, capacity, elements, COUNT, USED, BLOCK,
            )  # fmt: skip
        there = tl.load(counts + g)
        if there > 0:
            mean = tl.sqrt(tl.reduce(lanes, 0, add) / there.to(tl.float64))
            norm = tl.where(mean <= norm, norm, mean)
        begin = end
    return norm


@triton.jit
def hold(control, count, held, held_count, r, capacity):
    """Copy what a move reads and also writes."""
    tl.store(held + r, tl.load(control + TIME * capacity + r))
    tl.store(held + capacity + r, tl.load(control + STEP * capacity + r))
    tl.store(held_count + r, tl.load(count + STATUS * capacity + r))
    tl.store(held_count + capacity + r, tl.load(count + CURSOR * capacity + r))


@triton.jit
def decide(norm, control, count, numbers, r, capacity):
    """Acceptance and next size of one row, by the norm of its error.

    numbers: safety, smallest and largest factor, shortest and longest step, three exponents.
    """
    h = tl.load(control + STEP * capacity + r)
    running = tl.load(count + STATUS * capacity + r) == 0
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


@triton.jit
def move(
    y,
    y_new,
    k,
    ys,
    dense,
    times,
    control,
    count,
    stage,
    stage_times,
    a,
    c,
    t,
    h,
    running,
    cursor,
    r,
    tile,
    capacity,
    elements,
    outputs,
    output_stride,
    max_steps,
    COUNT: tl.constexpr,
    DEGREE: tl.constexpr,
    USED: tl.constexpr,
    NEXT: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of a tile: outputs that an accepted row has passed, its new state; the row's next step.

    t, h, cursor: the row's time, step and next output as they are before. NEXT: the input and time
    of the next step's first stage too; a and c are that stage's.
    """
    first = tile * TILE
    behind = tl.minimum(first + TILE, elements)
    taken = (tl.load(count + TAKEN * capacity + r) != 0) & running
    end = tl.load(control + END * capacity + r)
    sample = tl.load(count + ROW * capacity + r)
    t_new = tl.where(h == end - t, end, t + h)
    size = tl.abs(tl.load(control + PROPOSAL * capacity + r))
    accepted = tl.load(count + ACCEPTED * capacity + r)
    steps = accepted + tl.load(count + REJECTED * capacity + r)
    good = finite(tl.load(control + ERROR * capacity + r))
    time = tl.where(taken, t_new, t)
    rest = end - time
    step = tl.where(tl.abs(rest) <= 1.01 * size, rest, tl.where(rest < 0, -size, size))
    stuck = (time + step == time) | (finite(step) == 0)
    status = tl.where(stuck, tl.where(good, UNDERFLOW, NON_FINITE), 0)
    status = tl.where(steps >= max_steps, MAX_STEPS, status)
    status = tl.where(time == end, DONE, status)
    step = tl.where(status == 0, step, 0.0)
    if taken:
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
    tl.debug_barrier()
    if NEXT:
        h_next = tl.where(running, step, h)
        w = h_next * tl.load(a)
        if tile == 0:
            own_time = tl.where(running, time, t) + tl.load(c) * h_next
            tl.store(stage_times + r, own_time.to(stage_times.dtype.element_ty))
    for at_element in range(first, behind, BLOCK):
        e = at_element + tl.arange(0, BLOCK)
        place, there = r * elements + e, e < elements
        moves, stays = there & taken, there & (taken == 0)
        # A row that does not move keeps what it has, and its next step begins there too.
        state = tl.load(y_new + place, mask=moves, other=0.0)
        slope = tl.load(k + (COUNT - 1) * capacity * elements + place, mask=moves, other=0.0)
        tl.store(y + place, state, mask=moves)
        tl.store(k + place, slope, mask=moves)
        if NEXT:
            state = tl.where(moves, state, tl.load(y + place, mask=stays))
            slope = tl.where(moves, slope, tl.load(k + place, mask=stays))
            total = state + w.to(state.dtype) * slope
            total = tl.where(h_next == 0, state, total)
            tl.store(stage + place, total, mask=there)
    if tile == 0:
        tl.store(control + TIME * capacity + r, time, mask=running)
        tl.store(control + STEP * capacity + r, step, mask=running)
        tl.store(count + STATUS * capacity + r, status.to(tl.int64), mask=running)
        tl.store(count + CURSOR * capacity + r, cursor, mask=taken)
