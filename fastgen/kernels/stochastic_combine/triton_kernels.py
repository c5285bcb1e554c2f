"""The device code of `stochastic_combine`."""

# mypy: disable-error-code="assignment,misc"
import triton
import triton.language as tl

from fastgen.kernels.triton_support.elements import TABLES, keys, locate, rounded
from fastgen.kernels.triton_support.noise import group_normals

SCALARS = ("step", "rows", "elements", "stream")


@triton.jit
def coefficient(at, inside, BY_GROUP: tl.constexpr, REAL: tl.constexpr):
    """One coefficient, or a block of them, one to a group of elements."""
    # One return: Triton 3.6 wants those of all branches to agree, also of branches not taken.
    if BY_GROUP:  # noqa: SIM108
        c = tl.load(at, mask=inside, other=0.0).to(REAL)[:, None]
    else:
        c = tl.load(at).to(REAL)
    return c


@triton.jit(do_not_specialize=SCALARS, do_not_specialize_on_alignment=TABLES)
def stochastic_kernel(
    inputs,
    outputs,
    table,
    seeds,
    sample_ids,
    draws,
    step: tl.int64,
    rows: tl.int64,
    elements: tl.int64,
    stream: tl.int64,
    NOISES: tl.constexpr,
    GIVEN: tl.constexpr,
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
    """`stochastic_combine.reference`: everything is read before anything is written.

    inputs: the terms, then GIVEN noises. step: which of the tables and draws, which lie one after
    another.
    """
    COUNT: tl.constexpr = len(inputs) - GIVEN
    row, group, base, local, inside, mask = locate(rows, elements, WIDTH, BLOCK, FLAT, MIXED, EXACT)
    terms = ()
    for i in tl.static_range(COUNT):
        x = tl.load(inputs[i] + base + local, mask=mask)
        x = x.to(tl.float32).to(REAL) if x.dtype != tl.float64 else x.to(REAL)
        terms = terms + (x,)  # noqa: RUF005 (Triton has no starred tuples)
    units = ()
    for k in tl.static_range(GIVEN):
        z = tl.load(inputs[COUNT + k] + base + local, mask=mask)
        z = z.to(tl.float32).to(REAL) if z.dtype != tl.float64 else z.to(REAL)
        units = units + (z,)  # noqa: RUF005
    if NOISES > 0:
        known = row < rows
        seed, sample = keys(seeds, sample_ids, row, rows, SEED_PER_ROW, MIXED)
        numbers = draws + (step * rows + row if DRAWS_PER_ROW else step) * NOISES
        for k in tl.static_range(NOISES):
            if DRAWS_PER_ROW:
                draw = tl.load(numbers + k, mask=known, other=0).to(tl.uint32)
            else:
                draw = tl.load(numbers + k).to(tl.uint32)
            z = group_normals(group, sample, seed, draw, stream.to(tl.uint32), WIDTH)
            units = units + (z.to(REAL),)  # noqa: RUF005
    BY_GROUP: tl.constexpr = TABLE_PER_ROW and MIXED
    size: tl.constexpr = len(outputs) * COUNT * 5
    coefficients = table + (step * rows + row if TABLE_PER_ROW else step) * size
    for j in tl.static_range(len(outputs)):
        for i in tl.static_range(COUNT):
            at = coefficients + (j * COUNT + i) * 5
            c = coefficient(at, inside, BY_GROUP, REAL)
            present = c != 0
            weight = c
            if len(units) > 0:
                z = units[0]
                for k in tl.static_range(1, 4):
                    if k == 1:
                        power = z
                    elif k == 2:
                        power = z * z
                    else:
                        power = z * z * z
                    c = coefficient(at + k, inside, BY_GROUP, REAL)
                    present = present | (c != 0)
                    weight = tl.where(c == 0, weight, weight + c * power)
            if len(units) == 2:
                c = coefficient(at + 4, inside, BY_GROUP, REAL)
                present = present | (c != 0)
                weight = tl.where(c == 0, weight, weight + c * units[len(units) - 1])
            if i == 0:
                total = tl.where(present, weight * terms[0], 0.0)
            else:
                total = tl.where(present, total + weight * terms[i], total)
        place = outputs[j] + base + local
        tl.store(place, rounded(total, outputs[j].dtype.element_ty), mask=mask)
