"""The device code of `bridge`: times, coefficients, pairing and noise of a training batch.

Times and coefficients belong to rows, so every program makes those of the rows it works on, in
float64; nothing of them goes through memory but t itself, which the program with a row's first
group writes.
"""

# mypy: disable-error-code="assignment"
import triton
import triton.language as tl

from fastgen.kernels.triton_support.elements import keys, locate, rounded
from fastgen.kernels.triton_support.noise import group_normals, philox

SCALARS = ("rows", "elements", "count0", "count1", "cells", "stream", "time_stream")
TABLES = ("index0", "index1", "coefficients", "times", "quantiles")
TABLES = (*TABLES, "seeds", "sample_ids", "draw", "times_out", "output")


@triton.jit
def drawn_times(
    row,
    rows,
    seeds,
    sample_ids,
    draw,
    quantiles,
    cells,
    time_stream,
    SAMPLING: tl.constexpr,
    SEED_PER_ROW: tl.constexpr,
):
    """t of rows (a scalar or a block): `fastgen.kernels.bridge.reference.times`."""
    known = row < rows
    source = row
    if SAMPLING == 2:
        source = row & -2
    sample = tl.load(sample_ids + source, mask=known, other=0)
    seed = tl.load(seeds + (source if SEED_PER_ROW else source * 0), mask=known, other=0)
    zero = (row * 0).to(tl.uint32)
    last = time_stream.to(tl.uint32) | ((sample >> 32).to(tl.uint32) << 16)
    w0, w1, _, _ = philox(
        zero,
        sample.to(tl.uint32),
        zero + tl.load(draw).to(tl.uint32),
        last,
        seed.to(tl.uint32),
        (seed >> 32).to(tl.uint32),
    )
    bits = (w0.to(tl.int64) << 20) | (w1 >> 12).to(tl.int64)
    u = (bits.to(tl.float64) + 0.5) * 2.220446049250313e-16
    if SAMPLING == 1:
        u = (row.to(tl.float64) + u) / rows.to(tl.float64)
    elif SAMPLING == 2:
        u = tl.where(row % 2 == 1, 1.0 - u, u)
    p = u * cells.to(tl.float64)
    k = tl.minimum(p.to(tl.int64), cells - 1)
    low = tl.load(quantiles + k, mask=known, other=0.0)
    high = tl.load(quantiles + k + 1, mask=known, other=0.0)
    return low + (p - k.to(tl.float64)) * (high - low)


@triton.jit
def chosen(
    x,
    index,
    count,
    row,
    rows,
    group,
    elements,
    mask,
    WIDTH: tl.constexpr,
    MIXED: tl.constexpr,
    EXACT: tl.constexpr,
    REAL: tl.constexpr,
):
    """The groups of the rows that the index names; NaN where it is out of range."""
    place = row
    if index is not None:
        place = tl.load(index + row, mask=row < rows, other=0)
    good = (place >= 0) & (place < count)
    place = tl.where(good, place, 0)
    column = tl.arange(0, WIDTH)[None, :]
    if EXACT:  # the compiler can see that every access is aligned
        at = (place * ((elements + (WIDTH - 1)) // WIDTH) + group)[:, None] * WIDTH + column
    else:
        at = (place * elements + group * WIDTH)[:, None] + column
    value = tl.load(x + at, mask=mask, other=0.0)
    value = value.to(tl.float32).to(REAL) if value.dtype != tl.float64 else value
    if index is None:
        return value
    bad: tl.constexpr = float("nan")
    return tl.where(good[:, None] if MIXED else good, value, bad)


@triton.jit(do_not_specialize=SCALARS, do_not_specialize_on_alignment=TABLES)
def bridge_kernel(
    inputs,
    outputs,
    index0,
    index1,
    coefficients,
    times,
    quantiles,
    seeds,
    sample_ids,
    draw,
    times_out,
    rows: tl.int64,
    elements: tl.int64,
    count0: tl.int64,
    count1: tl.int64,
    cells: tl.int64,
    stream: tl.int64,
    time_stream: tl.int64,
    HAS_X0: tl.constexpr,
    NOISY: tl.constexpr,
    RECIPE: tl.constexpr,
    SAMPLING: tl.constexpr,
    SEED_PER_ROW: tl.constexpr,
    REAL: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    FLAT: tl.constexpr,
    MIXED: tl.constexpr,
    EXACT: tl.constexpr,
):
    """One training batch: `fastgen.kernels.bridge.reference`. SAMPLING is -1 for given times."""
    row, group, base, local, inside, mask = locate(rows, elements, WIDTH, BLOCK, FLAT, MIXED, EXACT)
    known = row < rows
    if SAMPLING < 0:
        t = tl.load(times + row, mask=known, other=0.0)
    else:
        t = drawn_times(
            row,
            rows,
            seeds,
            sample_ids,
            draw,
            quantiles,
            cells,
            time_stream,
            SAMPLING,
            SEED_PER_ROW,
        )
    shown = t.to(times_out.dtype.element_ty) + (group * 0).to(times_out.dtype.element_ty)
    tl.store(times_out + row + group * 0, shown, mask=inside & (group == 0))

    terms = ()
    if HAS_X0:
        x = chosen(
            inputs[0], index0, count0, row, rows, group, elements, mask, WIDTH, MIXED, EXACT, REAL
        )
        terms = terms + (x,)  # noqa: RUF005 (Triton has no starred tuples)
    x = chosen(
        inputs[-1], index1, count1, row, rows, group, elements, mask, WIDTH, MIXED, EXACT, REAL
    )
    terms = terms + (x,)  # noqa: RUF005
    if NOISY:
        seed, sample = keys(seeds, sample_ids, row, rows, SEED_PER_ROW, MIXED)
        number = tl.load(draw).to(tl.uint32)
        z = group_normals(group, sample, seed, number, stream.to(tl.uint32), WIDTH)
        terms = terms + (z.to(REAL),)  # noqa: RUF005

    if RECIPE:
        t = tl.where((t >= 0) & (t <= 1), t, float("nan"))
        r = tl.sqrt(t * (1.0 - t))
        phi = (t, r, (1.0 - 2.0 * t) / (2.0 * r), 1.0 / r)
    for j in tl.static_range(len(outputs)):
        for k in tl.static_range(len(terms)):
            if RECIPE:
                at = coefficients + (j * 3 + k + 1 - HAS_X0) * 5
                c = tl.load(at)
                for f in tl.static_range(1, 5):
                    weight = tl.load(at + f)
                    c = tl.where(weight == 0, c, c + weight * phi[f - 1])
            else:
                at = coefficients + (row * len(outputs) + j) * 3 + (k + 1 - HAS_X0)
                c = tl.load(at, mask=known, other=0.0)
            c = c.to(REAL)
            if MIXED:
                c = c[:, None]
            if k == 0:
                total = tl.where(c == 0, 0.0, c * terms[k])
            else:
                total = tl.where(c == 0, total, total + c * terms[k])
        tl.store(outputs[j] + base + local, rounded(total, outputs[j].dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=SCALARS, do_not_specialize_on_alignment=TABLES)
def times_kernel(
    output,
    quantiles,
    seeds,
    sample_ids,
    draw,
    rows: tl.int64,
    cells: tl.int64,
    time_stream: tl.int64,
    SAMPLING: tl.constexpr,
    SEED_PER_ROW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The times of a batch alone: `fastgen.kernels.bridge.reference.times`."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    t = drawn_times(
        row, rows, seeds, sample_ids, draw, quantiles, cells, time_stream, SAMPLING, SEED_PER_ROW
    )
    tl.store(output + row, t, mask=row < rows)
