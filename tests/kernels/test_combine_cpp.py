"""C++ `combine` equals the reference bit for bit, on every instruction set of this CPU."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastgen.common.limits import MAX_INPUTS, MAX_NOISES, MAX_OUTPUTS
from fastgen.kernels import Known, Noise
from fastgen.kernels.combine import reference
from fastgen.kernels.combine.contract import table_shape

cpp = pytest.importorskip("fastgen.kernels.combine.cpp")
_C = pytest.importorskip("fastgen._C")

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
DTYPES = [F32, F64, BF16, F16]
SPECIAL = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, 6e-8, 65520.0, 3e38])
TINY = [0.0, 0.0, 0.0, 1.0, -1.0, 1e-50, 1e-3]


def each_isa():
    before = _C.isa()
    try:
        for name in _C.supported_isas():
            _C.set_isa(name)
            yield name
    finally:
        _C.set_isa(before)


def same(a, b):
    equal = (a == b) | (a.isnan() & b.isnan())
    return a.dtype == b.dtype and a.shape == b.shape and bool(equal.all())


def poisoned(shape, dtypes):
    return [torch.full(shape, math.nan, dtype=dtype) for dtype in dtypes]


def check(inputs, table, dtypes, clip=None, noise=None, known=None):
    """All instruction sets against the reference, through `combine_into` and `bind`."""
    expected = reference.combine(inputs, table, dtypes, clip, noise, known)
    fixed = [x.contiguous() for x in inputs[1:]]
    for name in each_isa():
        outputs = poisoned(inputs[0].shape, dtypes)
        cpp.combine_into(inputs, outputs, table, clip, noise, known)
        for j, (got, want) in enumerate(zip(outputs, expected, strict=True)):
            assert same(got, want), f"{name}: output {j}"
        outputs = poisoned(inputs[0].shape, dtypes)
        bound = cpp.bind([None, *fixed], outputs, table, clip, noise, known)
        bound(inputs[:1])
        for j, (got, want) in enumerate(zip(outputs, expected, strict=True)):
            assert same(got, want), f"{name}: output {j}, bound"


def make(generator, shape, dtype, special):
    x = torch.randn(shape, generator=generator)
    if special:
        places = torch.rand(shape, generator=generator) < 0.2
        pick = torch.randint(len(SPECIAL), shape, generator=generator)
        x = torch.where(places, SPECIAL[pick], x)
    return x.to(dtype)


def make_mask(generator, shape, dtype):
    weights = (2 * torch.rand(shape, generator=generator) - 0.5).clamp(0, 1)
    return weights > 0.5 if dtype == torch.bool else weights.to(dtype)


@st.composite
def calls(draw):
    rows = draw(st.one_of(st.integers(0, 5), st.sampled_from([37, 300])))
    columns = draw(st.one_of(st.integers(1, 70), st.sampled_from([511, 512, 513, 1030])))
    if rows > 5:
        columns = min(columns, 70)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    kinds = draw(st.sampled_from([[F32], [F64], [F32, BF16, F16], DTYPES]))
    inputs = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=9))
    outputs = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4))
    clip = draw(st.sampled_from([None, None, (-1.0, 1.0), (0.5, 0.5), (-math.inf, 0.1)]))
    noises = draw(st.integers(0, 3) | st.just(MAX_NOISES))
    special = draw(st.booleans())
    is_known = draw(st.booleans())
    shape = table_shape(len(inputs), len(outputs), clip is not None, noises, is_known)
    tables = rows if draw(st.booleans()) and rows else 1
    table = torch.randn(tables, *shape, generator=generator, dtype=F64)
    table *= torch.tensor(TINY)[torch.randint(len(TINY), table.shape, generator=generator)]
    noise = None
    if noises:
        numbers = [(noises,), (rows, noises)]
        seeds = rows if draw(st.booleans()) and rows else 1
        high = torch.iinfo(torch.int64)
        noise = Noise(
            torch.randint(high.min, high.max, (seeds,), generator=generator),
            torch.randint(0, 2**48, (rows,), generator=generator),
            torch.randint(0, 2**32, draw(st.sampled_from(numbers)), generator=generator),
            draw(st.integers(0, 255)),
        )
    tensors = [make(generator, (rows, columns), dtype, special) for dtype in inputs]
    known = None
    if is_known:
        sizes = [rows if draw(st.booleans()) else 1 for _ in range(2)]
        values = make(generator, (sizes[0], columns), draw(st.sampled_from(kinds)), special)
        mask = make_mask(
            generator, (sizes[1], columns), draw(st.sampled_from([*kinds, torch.bool]))
        )
        known = Known(values, mask)
    return tensors, table, outputs, clip, noise, known


@given(calls())
def test_equals_reference(call):
    check(*call)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("shape", [(3, 40_001), (70_000, 2), (2, 3, 64, 200)])
def test_large_calls_and_threads(shape, shared):
    generator = torch.Generator().manual_seed(0)
    inputs = [make(generator, shape, dtype, False) for dtype in (F32, F32, BF16)]
    rows = shape[0]
    table = torch.randn(1 if shared else rows, 2, 4, generator=generator, dtype=F64)
    noise = Noise(torch.tensor([-3]), torch.arange(rows) + 2**33, torch.tensor([2**32 - 1]))
    expected = reference.combine(inputs, table, [F32, F16], None, noise)
    before = torch.get_num_threads()
    try:
        for _ in each_isa():
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)
                for got, want in zip(
                    cpp.combine(inputs, table, [F32, F16], None, noise), expected, strict=True
                ):
                    assert same(got, want)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("offset", [0, 1])
def test_streamed_outputs(offset):
    """Outputs so large that they bypass the caches, aligned and not."""
    x, y = torch.randn(2, 1_100_003), torch.randn(2, 1_100_003)
    table = torch.tensor([[[0.3, -0.7], [1.5, 0.0]]], dtype=F64)
    expected = reference.combine([x, y], table, [F32, F32])
    for _ in each_isa():
        memory = torch.full((2 * x.numel() + offset,), math.nan)[offset:]
        outputs = [memory[: x.numel()].view_as(x), memory[x.numel() :].view_as(x)]
        cpp.combine_into([x, y], outputs, table)
        assert same(outputs[0], expected[0])
        assert same(outputs[1], expected[1])


def test_all_limits():
    generator = torch.Generator().manual_seed(3)
    inputs = [make(generator, (4, 33), F32, False) for _ in range(MAX_INPUTS)]
    noise = Noise(torch.arange(4), torch.arange(4), torch.arange(MAX_NOISES))
    for tables in (1, 4):
        shape = (tables, MAX_OUTPUTS + 1, MAX_INPUTS + 1 + MAX_NOISES)
        table = torch.randn(shape, generator=generator, dtype=F64)
        check(inputs, table, [F32] * MAX_OUTPUTS, (-1.0, 1.0), noise)
        check(inputs, table, [F64] * MAX_OUTPUTS, (-1.0, 1.0), noise)


@pytest.mark.parametrize("columns", [3, 100])
@pytest.mark.parametrize("tables", [1, 2])
def test_zero_coefficients_hide_infinities(columns, tables):
    inputs = [torch.ones(2, columns), torch.full((2, columns), math.inf)]
    table = torch.tensor([[[2.0, 0.0], [1e-60, 1e-60], [-0.0, -1.0]]], dtype=F64)
    check(inputs, table.repeat(tables, 1, 1), [F32, F32, F32])


@pytest.mark.parametrize("dtype", [BF16, F16])
def test_every_half_precision_value(dtype):
    """All 2^16 inputs; as outputs, all values, their midpoints and the midpoints' neighbours."""
    values = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)[None]
    check([values], torch.ones(1, 1, 1, dtype=F64), [F32])
    exact = values.float()
    middle = (exact + exact.roll(1)) / 2
    below, above = (torch.nextafter(middle, torch.tensor(x)) for x in (-math.inf, math.inf))
    check([torch.cat([exact, middle, below, above])], torch.ones(1, 1, 1, dtype=F64), [dtype])


@pytest.mark.parametrize("columns", [2, 45, 700])
@pytest.mark.parametrize("tables", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_may_be_inputs(columns, tables, dtype):
    generator = torch.Generator().manual_seed(5)
    start = [make(generator, (3, columns), dtype, False) for _ in range(3)]
    table = torch.randn(tables, 4, 4, generator=generator, dtype=F64)
    noise = Noise(torch.tensor([1]), torch.arange(3), torch.tensor([2]))
    expected = reference.combine(start, table, [dtype, F32, dtype, dtype], None, noise)
    for _ in each_isa():
        a, b, c = (x.clone() for x in start)
        other = poisoned(a.shape, [F32])[0]
        # Outputs 0 and 2 overwrite inputs that later outputs still read.
        cpp.combine_into([a, b, c], [b, other, a, c], table, None, noise)
        for got, want in zip([b, other, a, c], expected, strict=True):
            assert same(got, want)


@pytest.mark.parametrize("columns", [2, 45, 700])
@pytest.mark.parametrize("tables", [1, 3])
@pytest.mark.parametrize("kind", [torch.bool, F32])
def test_outputs_may_be_inputs_where_some_are_known(columns, tables, kind):
    generator = torch.Generator().manual_seed(5)
    start = [make(generator, (3, columns), F32, False) for _ in range(2)]
    table = torch.randn(tables, 6, 3, generator=generator, dtype=F64)
    table[:, 1:3, 0] = 0  # later outputs read what output 0 overwrites where it is known alone
    known = Known(torch.randn(1, columns), make_mask(generator, (3, columns), kind))
    expected = reference.combine(start, table, [F32] * 3, None, None, known)
    for _ in each_isa():
        a, b = (x.clone() for x in start)
        other = poisoned(a.shape, [F32])[0]
        cpp.combine_into([a, b], [a, other, b], table, None, None, known)
        for got, want in zip([a, other, b], expected, strict=True):
            assert same(got, want)


@pytest.mark.parametrize("columns", [2, 45, 700])
@pytest.mark.parametrize("kind", [None, torch.bool, F32])
def test_outputs_that_stay_as_they_are(columns, kind):
    """Where a row's output is the input in its place, alone or on both sides of a mask, or not."""
    generator = torch.Generator().manual_seed(5)
    start = [make(generator, (4, columns), F32, False) for _ in range(3)]
    known = None
    if kind is not None:
        known = Known(torch.randn(1, columns), make_mask(generator, (4, columns), kind))
    sides = 1 if kind is None else 2
    table = torch.randn(4, 3 * sides, 3 + (sides - 1), generator=generator, dtype=F64)
    one = torch.eye(3, 3 + (sides - 1), dtype=F64)
    table[0, :3], table[1, 1], table[2, -3:] = one, one[1], one  # the second alone, or one side
    table[3, :3] = one[[1, 0, 2]]  # two change places
    expected = reference.combine(start, table, [F32] * 3, None, None, known)
    for _ in each_isa():
        own = [x.clone() for x in start]
        cpp.combine_into(own, own, table, None, None, known)
        for got, want in zip(own, expected, strict=True):
            assert same(got, want)


@pytest.mark.parametrize("shape", [(3, 40_001), (70_000, 2), (2, 3, 64, 200)])
@pytest.mark.parametrize("kind", [torch.bool, F32])
def test_large_masks_and_threads(shape, kind):
    """Elements that are not known are those of a call without a mask, whatever is known."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, *shape, generator=generator)
    mask = (torch.rand(1, *shape[1:], generator=generator) < 0.5).to(kind)
    known = Known(torch.randn(1, *shape[1:], generator=generator), mask)
    table = torch.tensor([[[0.3, -0.7, 0.0], [0.2, 0.0, 1.1]]], dtype=F64)
    plain = reference.combine([x, y], table[:, :1, :2], [F32])[0]
    there = reference.combine([x, known.values.expand_as(x)], table[:, 1:, ::2], [F32])[0]
    before = torch.get_num_threads()
    try:
        for _ in each_isa():
            for threads in (1, 3):
                torch.set_num_threads(threads)
                (got,) = cpp.combine([x, y], table, [F32], None, None, known)
                assert same(got, torch.where(mask > 0, there, plain))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("columns", [3, 700])
@pytest.mark.parametrize("kind", [torch.bool, F64])
def test_what_is_not_finite_stays_on_its_side(columns, kind):
    x = torch.ones(2, columns)
    x[:, ::2] = math.nan
    known = torch.arange(columns)[None] % 2 == 0
    values = torch.where(known, 2.0, math.inf)
    table = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=F64)
    check([x], table, [F32], known=Known(values, known.to(kind)))
    (y,) = cpp.combine([x], table, [F32], None, None, Known(values, known.to(kind)))
    assert torch.equal(y, torch.where(known, 2.0, 1.0).expand(2, -1))


@pytest.mark.parametrize("shared", [True, False])
def test_sample_is_independent_of_its_batch(shared):
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(11, 30, generator=generator)
    table = torch.randn(1 if shared else 11, 1, 2, generator=generator, dtype=F64)
    ids, draws = torch.arange(11) * 3, torch.tensor([4])
    for _ in each_isa():
        (batch,) = cpp.combine([x], table, [F32], None, Noise(torch.tensor([8]), ids, draws))
        for i in (0, 6, 10):
            rows = slice(i, i + 1)
            own = table if shared else table[rows]
            noise = Noise(torch.tensor([8]), ids[rows], draws)
            (alone,) = cpp.combine([x[rows]], own, [F32], None, noise)
            assert torch.equal(alone[0], batch[i])


def test_layouts():
    x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    y = torch.randn(2, 3, 8, 16)[..., ::2]
    table = torch.tensor([[[0.5, -2.0]]], dtype=F64)
    check([x, y], table, [F32])
    with pytest.raises(ValueError, match=r"outputs\[0\]"):
        cpp.combine_into([x, y], [torch.empty_like(x)], table)
    with pytest.raises(ValueError, match=r"outputs\[0\]"):
        cpp.combine_into([x, y], [torch.empty(2, 3)], table)
    with pytest.raises(ValueError, match=r"inputs\[1\]"):
        cpp.bind([None, y], [torch.empty(2, 3, 8, 8)], table)


def test_bound_reads_buffers_when_called():
    x, out = torch.randn(4, 9), torch.empty(4, 9)
    table = torch.randn(1, 1, 3, dtype=F64)
    noise = Noise(torch.tensor([1]), torch.arange(4), torch.tensor([0]))
    bound = cpp.bind([x, None], [out], table, None, noise)
    for step in range(3):
        table.normal_()
        x.normal_()
        noise.draws.fill_(step)
        noise.seeds.fill_(-step)
        supplied = torch.randn(9, 4).T.to(BF16 if step == 2 else F32)
        bound([supplied])
        assert same(out, reference.combine([x, supplied], table, [F32], None, noise)[0])
    with pytest.raises(ValueError, match="expected 1 tensors"):
        bound([])
    with pytest.raises(ValueError, match="shape"):
        bound([torch.randn(4, 8)])
    with pytest.raises(ValueError, match="table"):
        cpp.bind([x, None], [out], torch.zeros(1, 1, 2, dtype=F64), None, noise)


def test_bound_keeps_its_tensors_alive():
    out = torch.empty(1, 1000)
    bound = cpp.bind([torch.ones(1, 1000), None], [out], torch.ones(1, 1, 2, dtype=F64))
    for _ in range(10):
        torch.full((1, 1000), math.nan)  # would take the freed memory
    bound([torch.ones(1, 1000)])
    assert (out == 2).all()


def test_unknown_isa_is_named():
    with pytest.raises(ValueError, match=r"baseline.*got mmx"):
        _C.set_isa("mmx")
