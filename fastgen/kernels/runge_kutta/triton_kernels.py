"""Device code of error-controlled steps: `fastgen.kernels.runge_kutta.reference`.

control is float64 [9, capacity] and count int64 [6, capacity]; the rows of these tables are those
of `runge_kutta.contract.Control` and `Count`. A program has one tile of one row, so that no row
depends on another; of long rows each tile leaves its part of the error's norm, and the one that is
the last to do so decides. What a move reads and also writes, the decision has copied to held:
float64 [2, capacity] (time, step) and held_count int64 [2, capacity] (status, cursor), so that no
tile waits for another.

Every kernel is given the field's newest value where the field left it, and puts it into k itself.
What a program does to a row: `rows_triton_kernels`.
"""

# mypy: disable-error-code="assignment"
import triton
import triton.language as tl

from fastgen.kernels.runge_kutta.rows_triton_kernels import (
    CURSOR,
    STATUS,
    STEP,
    TIME,
    add,
    decide,
    hold,
    move,
    row_and_tile,
    row_norm,
    squared_ratios,
)

# Integers whose values must not compile a new kernel.
SCALARS = ("tiles", "capacity", "elements", "segments", "outputs", "output_stride", "max_steps")
SCALARS = (*SCALARS, "live_stride")
TABLES = ("a", "c", "error", "dense", "control", "count", "times", "numbers", "segment_ends")
TABLES = (*TABLES, "live", "held", "held_count", "partial", "tile_ends", "first_tiles", "arrived")
# Rows of any length begin anywhere, so that aligned addresses bring nothing.
TABLES = (*TABLES, "slopes", "buffers")


@triton.jit(do_not_specialize=SCALARS, do_not_specialize_on_alignment=TABLES)
def stage_kernel(
    slopes,
    buffers,
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
    """stage = y + h sum_j a_j k_j, stage_times = t + c h; a and c are those of the stage.

    slopes: f at the stage before; buffers: y, k, stage, y_new, stage_times.
    """
    y, k, stage, y_new, stage_times = buffers
    r, tile = row_and_tile(tiles)
    h = tl.load(control + STEP * capacity + r)
    e = tile * BLOCK + tl.arange(0, BLOCK)
    mask = e < elements
    total = tl.load(y + r * elements + e, mask=mask)
    newest = tl.load(slopes[0] + r * elements + e, mask=mask)
    tl.store(k + ((COUNT - 1) * capacity + r) * elements + e, newest, mask=mask)
    for j in tl.static_range(COUNT):
        if (USED >> j) & 1:
            w = (h * tl.load(a + j)).to(total.dtype)
            if j == COUNT - 1:
                slope = newest
            else:
                slope = tl.load(k + (j * capacity + r) * elements + e, mask=mask)
            total = tl.where(h == 0, total, total + w * slope)
    tl.store(stage + r * elements + e, total, mask=mask)
    if LAST:
        tl.store(y_new + r * elements + e, total, mask=mask)
    if tile == 0:
        time = tl.load(control + TIME * capacity + r) + tl.load(c) * h
        tl.store(stage_times + r, time.to(total.dtype))


@triton.jit(do_not_specialize=SCALARS, do_not_specialize_on_alignment=TABLES)
def error_kernel(
    slopes,
    buffers,
    error,
    segment_ends,
    live,
    control,
    count,
    numbers,
    held,
    held_count,
    first_tiles,
    tile_ends,
    partial,
    arrived,
    tiles: tl.int64,
    capacity: tl.int64,
    elements: tl.int64,
    segments: tl.int64,
    live_stride: tl.int64,
    COUNT: tl.constexpr,
    USED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each tile's part of the sums in the error's norm; the last tile of a row decides.

    tile_ends: [begin, end) of each tile, which is within one segment. partial: [rows, tiles].
    arrived: int32 [rows], tiles that have left their part, 0 before and after. The sums are added
    in the same order whichever tile is the last.
    """
    y, k, y_new = buffers
    r, tile = row_and_tile(tiles)
    begin, end = tl.load(tile_ends + 2 * tile), tl.load(tile_ends + 2 * tile + 1)
    lanes = squared_ratios(
        slopes[0], y, y_new, k, error, control,
        r, begin, end, capacity, elements, COUNT, USED, BLOCK,
    )  # fmt: skip
    tl.store(partial + r * tiles + tile, tl.reduce(lanes, 0, add))
    tl.debug_barrier()
    if tl.atomic_add(arrived + r, 1, sem="acq_rel") == tiles - 1:
        hold(control, count, held, held_count, r, capacity)
        norm = row_norm(
            slopes[0], y, y_new, k, error, segment_ends, live, control, count, first_tiles, partial,
            r, tiles, capacity, elements, segments, live_stride, COUNT, USED, True, BLOCK,
        )  # fmt: skip
        decide(norm, control, count, numbers, r, capacity)
        tl.store(arrived + r, 0)


@triton.jit(do_not_specialize=SCALARS, do_not_specialize_on_alignment=TABLES)
def control_kernel(
    slopes,
    buffers,
    error,
    segment_ends,
    live,
    control,
    count,
    numbers,
    held,
    held_count,
    capacity: tl.int64,
    elements: tl.int64,
    segments: tl.int64,
    live_stride: tl.int64,
    COUNT: tl.constexpr,
    USED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Error, norm, acceptance and next size of one row."""
    y, k, y_new = buffers
    r = tl.program_id(0).to(tl.int64)
    hold(control, count, held, held_count, r, capacity)
    norm = row_norm(
        slopes[0], y, y_new, k, error, segment_ends, live, control, count, segment_ends, error,
        r, 0, capacity, elements, segments, live_stride, COUNT, USED, False, BLOCK,
    )  # fmt: skip
    decide(norm, control, count, numbers, r, capacity)


@triton.jit(do_not_specialize=SCALARS, do_not_specialize_on_alignment=TABLES)
def commit_kernel(
    slopes,
    buffers,
    dense,
    times,
    control,
    count,
    held,
    held_count,
    a,
    c,
    tiles: tl.int64,
    capacity: tl.int64,
    elements: tl.int64,
    outputs: tl.int64,
    output_stride: tl.int64,
    max_steps: tl.int64,
    COUNT: tl.constexpr,
    DEGREE: tl.constexpr,
    USED: tl.constexpr,
    NEXT: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Outputs that an accepted row has passed, its new state, and every row's next step.

    slopes: none. buffers: y, k, y_new, ys, stage, stage_times.
    """
    y, k, y_new, ys, stage, stage_times = buffers
    r, tile = row_and_tile(tiles)
    move(
        y, y_new, k, ys, dense, times, control, count, stage, stage_times, a, c,
        tl.load(held + r), tl.load(held + capacity + r),
        tl.load(held_count + r) == 0, tl.load(held_count + capacity + r),
        r, tile, capacity, elements, outputs, output_stride, max_steps,
        COUNT, DEGREE, USED, NEXT, TILE, BLOCK,
    )  # fmt: skip


@triton.jit(do_not_specialize=SCALARS, do_not_specialize_on_alignment=TABLES)
def step_kernel(
    slopes,
    buffers,
    error,
    segment_ends,
    live,
    control,
    count,
    numbers,
    dense,
    times,
    a,
    c,
    capacity: tl.int64,
    elements: tl.int64,
    segments: tl.int64,
    live_stride: tl.int64,
    outputs: tl.int64,
    output_stride: tl.int64,
    max_steps: tl.int64,
    COUNT: tl.constexpr,
    USED: tl.constexpr,
    DEGREE: tl.constexpr,
    DENSE: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Between the last evaluation of a step and the first of the next, for rows of one tile.

    DENSE is USED of the interpolant. buffers: y, k, y_new, ys, stage, stage_times.
    """
    y, k, y_new, ys, stage, stage_times = buffers
    r = tl.program_id(0).to(tl.int64)
    norm = row_norm(
        slopes[0], y, y_new, k, error, segment_ends, live, control, count, segment_ends, error,
        r, 0, capacity, elements, segments, live_stride, COUNT, USED, False, BLOCK,
    )  # fmt: skip
    decide(norm, control, count, numbers, r, capacity)
    tl.debug_barrier()
    move(
        y, y_new, k, ys, dense, times, control, count, stage, stage_times, a, c,
        tl.load(control + TIME * capacity + r), tl.load(control + STEP * capacity + r),
        tl.load(count + STATUS * capacity + r) == 0, tl.load(count + CURSOR * capacity + r),
        r, r * 0, capacity, elements, outputs, output_stride, max_steps,
        COUNT, DEGREE, DENSE, True, TILE, BLOCK,
    )  # fmt: skip
