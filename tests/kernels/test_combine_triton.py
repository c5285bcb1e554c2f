"""Triton's `combine` equals the reference bit for bit: interpreted, or on a real device."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgen import kernels
from fastgen.common.limits import MAX_INPUTS, MAX_NOISES, MAX_OUTPUTS
from fastgen.kernels import Known, Noise, dispatch
from fastgen.kernels.combine import reference
from fastgen.kernels.combine.contract import table_shape
from tests.support import triton_device
from tests.support.triton_device import (
    DEVICE,
    INTERPRETED,
    MARKS,
    ON_CPU,
    defining_kernels,
    same,
    to_device,
)

pytest.importorskip("triton")
with defining_kernels():
    from fastgen.kernels.combine import triton
    from fastgen.kernels.normals import triton as normals_triton
    from fastgen.kernels.triton_support import geometry as geometries

pytestmark = MARKS
interpreter_that_rounds = triton_device.interpreter_that_rounds
# The interpreter takes a millisecond for every ten operations of a program, a device half a second
# to compile for dtypes that it has not seen.
EXAMPLES = 20 if ON_CPU else 30

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
DTYPES = [F32, F64, BF16, F16]
SPECIAL = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, 6e-8, 65520.0, 3e38])
TINY = [0.0, 0.0, 0.0, 1.0, -1.0, 1e-50, 1e-3]


def poisoned(shape, dtypes):
    return [torch.full(shape, math.nan, dtype=dtype, device=DEVICE) for dtype in dtypes]


def check(inputs, table, dtypes, clip=None, noise=None, known=None, bound=True):
    """`combine_into`, and `bind` twice (the second call takes the lean path on a device)."""
    expected = reference.combine(inputs, table, dtypes, clip, noise, known)
    inputs, table, noise = [to_device(x) for x in inputs], to_device(table), to_device(noise)
    known = None if known is None else Known(*map(to_device, known))
    outputs = poisoned(inputs[0].shape, dtypes)
    triton.combine_into(inputs, outputs, table, clip, noise, known)
    for j, (got, want) in enumerate(zip(outputs, expected, strict=True)):
        assert same(got, want), f"output {j}"
    if not bound:
        return
    outputs = poisoned(inputs[0].shape, dtypes)
    rest = [x.contiguous() for x in inputs[1:]]
    run = triton.bind([None, *rest], outputs, table, clip, noise, known)
    for _ in range(1 if INTERPRETED else 2):
        for y in outputs:
            y.fill_(math.nan)
        run(inputs[:1])
        for j, (got, want) in enumerate(zip(outputs, expected, strict=True)):
            assert same(got, want), f"output {j}, bound"


def make(generator, shape, dtype, special=False):
    x = torch.randn(shape, generator=generator)
    if special:
        places = torch.rand(shape, generator=generator) < 0.2
        x = torch.where(places, SPECIAL[torch.randint(len(SPECIAL), shape, generator=generator)], x)
    return x.to(dtype)


def strided(x, kind):
    """The same values in other memory: as they are, transposed, every second, from an offset."""
    if kind == 1:
        return x.T.contiguous().T
    if kind == 2:
        return x.repeat_interleave(2, dim=1)[:, ::2]
    if kind == 3:
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)
    return x


@st.composite
def calls(draw):
    rows, columns = draw(
        st.tuples(st.integers(0, 5), st.integers(1, 70))
        | st.sampled_from([(130, 1), (130, 2), (40, 5), (1, 1027), (2, 516), (2, 1024), (3, 8)])
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    kinds = draw(st.sampled_from([[F32], [F64], [BF16], [F16], [F32, BF16, F16], DTYPES]))
    inputs = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=6))
    outputs = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3))
    clip = draw(st.sampled_from([None, None, (-1.0, 1.0), (0.5, 0.5), (-math.inf, 0.1)]))
    noises = draw(st.sampled_from([0, 0, 1, 2]))
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
        limits = torch.iinfo(torch.int64)
        noise = Noise(
            torch.randint(limits.min, limits.max, (seeds,), generator=generator),
            torch.randint(0, 2**48, (rows,), generator=generator),
            torch.randint(0, 2**32, draw(st.sampled_from(numbers)), generator=generator),
            draw(st.integers(0, 255)),
        )
    tensors = [make(generator, (rows, columns), dtype, special) for dtype in inputs]
    if draw(st.booleans()):
        tensors = [strided(x, draw(st.integers(0, 3))) for x in tensors]
    known = None
    if is_known:
        sizes = [rows if draw(st.booleans()) else 1 for _ in range(2)]
        values = make(generator, (sizes[0], columns), draw(st.sampled_from(kinds)), special)
        mask = make_mask(
            generator, (sizes[1], columns), draw(st.sampled_from([*kinds, torch.bool]))
        )
        known = Known(values, mask)
    return tensors, table, outputs, clip, noise, known


def make_mask(generator, shape, dtype):
    weights = (2 * torch.rand(shape, generator=generator) - 0.5).clamp(0, 1)
    return weights > 0.5 if dtype == torch.bool else weights.to(dtype)


@settings(max_examples=2 * EXAMPLES)
@given(calls())
def test_combine_equals_reference(call):
    check(*call, bound=call[0][0].numel() < 100)


@pytest.mark.parametrize("shape", [(3, 70), (130, 2), (2, 1024), (1, 1027)])
@pytest.mark.parametrize("kind", [torch.bool, F32, BF16])
@pytest.mark.parametrize("by_row", [False, True])
def test_known_elements_are_other_sums(shape, kind, by_row):
    generator = torch.Generator().manual_seed(2)
    x, y = make(generator, shape, F32), make(generator, shape, BF16, True)
    table = torch.randn(shape[0] if by_row else 1, 4, 4, generator=generator, dtype=F64)
    noise = Noise(torch.tensor([1]), torch.arange(shape[0]), torch.tensor([2]))
    for rows in (1, shape[0]):
        known = Known(make(generator, (rows, shape[1]), F32), make_mask(generator, shape, kind))
        check([x, y], table, [F32, BF16], None, noise, known)
        known = Known(known.values, known.mask[:1].contiguous())
        check([x, y], table, [F32, BF16], None, noise, known)


@pytest.mark.parametrize("seed", range(3 if ON_CPU else 25))
def test_random_calls_equal_reference(seed):
    """What the property test does, where hypothesis is not installed."""
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    rows, columns = chance.choice([(1, 1027), (3, 8), (130, 2), (5, 70), (64, 1), (2, 512)])
    if not ON_CPU:
        rows, columns = chance.choice([(64, 3072), (65536, 2), (1, 2**20 + 3), (7, 35), (1000, 14)])
    kinds = chance.choice([[F32], [F64], [BF16], [F16], [F32, BF16], DTYPES])
    tensors = [
        make(generator, (rows, columns), chance.choice(kinds), seed % 2 == 0)
        for _ in range(chance.randint(1, 6))
    ]
    dtypes = [chance.choice(kinds) for _ in range(chance.randint(1, 3))]
    clip, noises = chance.choice([None, (-1.0, 1.0)]), chance.randint(0, 2)
    clipped = clip is not None
    tables = chance.choice([1, rows])
    shape = (tables, len(dtypes) + clipped, len(tensors) + clipped + noises)
    table = torch.randn(shape, generator=generator, dtype=F64)
    table *= torch.tensor(TINY)[torch.randint(len(TINY), shape, generator=generator)]
    noise = None
    if noises:
        draws = torch.randint(0, 2**32, chance.choice([(noises,), (rows, noises)]))
        seeds = torch.randint(-(2**63), 2**63 - 1, (chance.choice([1, rows]),))
        noise = Noise(seeds, torch.randint(0, 2**48, (rows,)), draws, seed)
    check(tensors, table, dtypes, clip, noise, bound=not INTERPRETED)


def test_two_groups_of_a_thread_have_their_own_noise(monkeypatch):
    """As in large calls, here small ones."""
    monkeypatch.setattr(geometries, "LARGE", 1)
    generator = torch.Generator().manual_seed(3)
    for shape in ((3, 1500), (1, 1028), (7, 35)):
        noise = Noise(torch.tensor([7]), torch.arange(shape[0]), torch.tensor([3]))
        table = torch.randn(1, 1, 3, generator=generator, dtype=F64)
        tensors = [make(generator, shape, F32) for _ in range(2)]
        check(tensors, table, [F32], None, noise, bound=not INTERPRETED)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_all_limits(dtype):
    generator = torch.Generator().manual_seed(3)
    inputs = [make(generator, (2, 33), dtype) for _ in range(MAX_INPUTS)]
    noise = Noise(torch.arange(2), torch.arange(2), torch.arange(MAX_NOISES))
    shape = (2, MAX_OUTPUTS + 1, MAX_INPUTS + 1 + MAX_NOISES)
    table = torch.randn(shape, generator=generator, dtype=F64)
    check(inputs, table, [dtype] * MAX_OUTPUTS, (-1.0, 1.0), noise, bound=False)


@pytest.mark.parametrize("columns", [3, 100])
@pytest.mark.parametrize("tables", [1, 2])
def test_zero_coefficients_hide_infinities(columns, tables):
    inputs = [torch.ones(2, columns), torch.full((2, columns), math.inf)]
    table = torch.tensor([[[2.0, 0.0], [1e-60, 1e-60], [-0.0, -1.0]]], dtype=F64)
    check(inputs, table.repeat(tables, 1, 1), [F32, F32, F32])


@pytest.mark.parametrize("dtype", [F32, F64])
def test_clip_lets_nan_through_and_keeps_float64_bounds(dtype):
    x = torch.tensor([[math.nan, -math.inf, math.inf, 0.1, 5.0]], dtype=dtype)
    table = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=F64)
    check([x], table, [dtype], (-0.1, 0.1))
    check([x], table, [dtype], (-math.inf, math.inf))


@pytest.mark.parametrize("dtype", [BF16, F16])
def test_every_half_precision_value(dtype):
    before = geometries.THREADS
    try:
        geometries.THREADS = 2**13 if INTERPRETED else before
        values = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)[None]
        check([values], torch.ones(1, 1, 1, dtype=F64), [F32])
        exact = values.float()
        middle = (exact + exact.roll(1)) / 2
        near = [torch.nextafter(middle, torch.tensor(x)) for x in (-math.inf, math.inf)]
        check([torch.cat([exact, middle, *near])], torch.ones(1, 1, 1, dtype=F64), [dtype])
    finally:
        geometries.THREADS = before


@pytest.mark.parametrize("columns", [2, 45, 600])
@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_may_be_inputs(columns, dtype):
    generator = torch.Generator().manual_seed(5)
    start = [make(generator, (3, columns), dtype) for _ in range(3)]
    table = torch.randn(3, 4, 3, generator=generator, dtype=F64)
    expected = reference.combine(start, table, [dtype, F32, dtype, dtype])
    a, b, c = (to_device(x.clone()) for x in start)
    other = poisoned(a.shape, [F32])[0]
    # Outputs 0 and 2 overwrite inputs that later outputs still read.
    triton.combine_into([a, b, c], [b, other, a, c], to_device(table))
    for got, want in zip([b, other, a, c], expected, strict=True):
        assert same(got, want)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_empty_tensors(shape):
    noise = Noise(torch.tensor([1]), torch.arange(shape[0]), torch.tensor([0]))
    table = torch.ones(max(shape[0], 1), 1, 2, dtype=F64)
    check([torch.empty(shape)], table, [BF16], None, noise)
    z = normals_triton.normals(shape[1], *map(to_device, noise[:2]), 0, 1)
    assert z.shape == shape


@pytest.mark.parametrize("shared", [True, False])
def test_sample_is_independent_of_its_batch(shared):
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(11, 30, generator=generator)
    table = torch.randn(1 if shared else 11, 1, 2, generator=generator, dtype=F64)
    ids, draws, seed = torch.arange(11) * 3, torch.tensor([4]), torch.tensor([8])
    x, table, ids, draws, seed = (to_device(y) for y in (x, table, ids, draws, seed))
    (batch,) = triton.combine([x], table, [F32], None, Noise(seed, ids, draws))
    for i in (0, 6, 10):
        rows = slice(i, i + 1)
        noise = Noise(seed, ids[rows], draws)
        own = table if shared else table[rows]
        (alone,) = triton.combine([x[rows]], own, [F32], None, noise)
        assert torch.equal(alone[0], batch[i])


def test_layouts():
    x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    y = torch.randn(2, 3, 8, 16)[..., ::2]
    table = torch.tensor([[[0.5, -2.0]]], dtype=F64)
    check([x, y], table, [F32])
    x, y, table = to_device(x), to_device(y), to_device(table)
    with pytest.raises(ValueError, match=r"outputs\[0\]"):
        triton.combine_into([x, y], [torch.empty_like(x)], table)
    with pytest.raises(ValueError, match=r"outputs\[0\]"):
        triton.combine_into([x, y], [torch.empty(2, 3, device=DEVICE)], table)
    with pytest.raises(ValueError, match=r"inputs\[1\]"):
        triton.bind([None, y], [torch.empty(2, 3, 8, 8, device=DEVICE)], table)


def test_misaligned_tensors():
    memory = torch.randn(3, 700, device=DEVICE)
    x, y, out = (row[1:641].view(2, 320) for row in memory)
    table = torch.tensor([[[0.5, -2.0]]], dtype=F64, device=DEVICE)
    expected = reference.combine([x.cpu(), y.cpu()], table.cpu(), [F32])[0]
    bound = triton.bind([x, None], [out], table)
    for _ in range(2):
        out.fill_(math.nan)
        bound([y])
        assert same(out, expected)
    aligned, fresh = (z.clone() for z in (x, y)), torch.empty(2, 320, device=DEVICE)
    x, z = aligned
    bound = triton.bind([x, None], [fresh], table)
    for other in (z, z, y, z):
        fresh.fill_(math.nan)
        bound([other])
        assert same(fresh, expected)


@pytest.mark.parametrize("clip", [None, (-0.5, 0.8)])
def test_gradients_are_transposed_stages(clip, monkeypatch):
    """Through the operator, whose forward and backward then are Triton kernels."""
    calls = []
    counted = triton.combine_kernel.__class__.__getitem__
    monkeypatch.setattr(
        triton.combine_kernel.__class__,
        "__getitem__",
        lambda kernel, grid: calls.append(kernel) or counted(kernel, grid),
    )
    if ON_CPU:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        monkeypatch.setenv("FASTGEN_BACKEND", "triton")
        dispatch.missing.cache_clear()
    generator = torch.Generator().manual_seed(2)
    draws = torch.tensor([[3], [9]])
    noise = Noise(torch.tensor([4]), torch.arange(2), draws)
    table = torch.randn(1, 2 + (clip is not None), 4 + (clip is not None), generator=generator)
    host = [make(generator, (2, 5), F64).requires_grad_() for _ in range(3)]
    device = [x.detach().to(DEVICE).requires_grad_() for x in host]

    def run(tensors, table, noise):
        first, second = kernels.combine(tensors, table, [F64, F32], clip=clip, noise=noise)
        return (first.sin() + second.square().double()).sum()

    found = torch.autograd.grad(run(device, to_device(table.double()), to_device(noise)), device)
    assert len(calls) >= (2 if ON_CPU else 1)
    monkeypatch.setenv("FASTGEN_BACKEND", "reference")
    wanted = torch.autograd.grad(run(host, table.double(), noise), host)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got.cpu(), want)


def test_bound_reads_buffers_when_called():
    x, out = torch.randn(4, 9, device=DEVICE), torch.empty(4, 9, device=DEVICE)
    table = torch.randn(1, 1, 3, dtype=F64, device=DEVICE)
    noise = to_device(Noise(torch.tensor([1]), torch.arange(4), torch.tensor([0])))
    bound = triton.bind([x, None], [out], table, None, noise)
    host = Noise(*(y.cpu() for y in noise[:3]), noise.stream)
    for step in range(3):
        table.normal_()
        x.normal_()
        for keys in (noise, host):
            keys.draws.fill_(step)
            keys.seeds.fill_(-step)
        supplied = torch.randn(9, 4, device=DEVICE).T.to(BF16 if step == 2 else F32)
        bound([supplied])
        expected = reference.combine([x.cpu(), supplied.cpu()], table.cpu(), [F32], None, host)
        assert same(out, expected[0])
    with pytest.raises(ValueError, match="expected 1 tensors"):
        bound([])
    with pytest.raises(ValueError, match="shape"):
        bound([torch.randn(4, 8, device=DEVICE)])
    with pytest.raises(ValueError, match="table"):
        triton.bind([x, None], [out], torch.zeros(1, 1, 2, dtype=F64, device=DEVICE), None, noise)


@pytest.mark.skipif(ON_CPU, reason="needs 10 GiB of a device")
def test_more_than_2_to_the_31_elements():
    x = torch.full((1, 2**31 + 2**20), 2.0, dtype=BF16, device=DEVICE)
    table = torch.tensor([[[0.5, 1.0]]], dtype=F64, device=DEVICE)
    noise = to_device(Noise(torch.tensor([1]), torch.tensor([3]), torch.tensor([0])))
    triton.combine_into([x], [x], table, None, noise)
    tail = x[0, -4096:].clone()
    assert (tail != 2).any()
    assert abs(tail.double().mean() - 1) < 0.1


@pytest.mark.skipif(ON_CPU, reason="launches are asynchronous on devices only")
def test_no_synchronisation():
    x, out = torch.randn(64, 3072, device=DEVICE), torch.empty(64, 3072, device=DEVICE)
    table = torch.ones(1, 1, 2, dtype=F64, device=DEVICE)
    noise = to_device(Noise(torch.tensor([1]), torch.arange(64), torch.tensor([0])))
    bound = triton.bind([None], [out], table, None, noise)
    bound([x])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            bound([x])
        triton.combine([x], table, [F32], None, noise)
        normals_triton.normals(7, noise.seeds, noise.sample_ids, 3, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bound._launch.ready()
