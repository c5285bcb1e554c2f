"""`bridge`: C++ equals the reference bit for bit on every instruction set; gradients; errors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastgen import kernels
from fastgen.kernels import Clock, Noise, Sampling, Stream
from fastgen.kernels.bridge import reference

cpp = pytest.importorskip("fastgen.kernels.bridge.cpp")
_C = pytest.importorskip("fastgen._C")

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16


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


def key(rows, generator, seeds=1, stream=Stream.TRAINING):
    limits = torch.iinfo(torch.int64)
    return Noise(
        torch.randint(limits.min, limits.max, (seeds,), generator=generator),
        torch.randint(0, 2**48, (rows,), generator=generator),
        torch.randint(0, 2**32, (1,), generator=generator),
        stream,
    )


@st.composite
def calls(draw):
    rows = draw(st.one_of(st.integers(0, 9), st.sampled_from([255, 257, 700])))
    columns = draw(st.one_of(st.integers(1, 70), st.sampled_from([31, 32, 512, 1030])))
    columns = min(columns, 70) if rows > 9 else columns
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    kinds = draw(st.sampled_from([[F32], [F64], [F32, BF16, F16], [F32, F64, BF16, F16]]))
    kind = st.sampled_from(kinds)
    choose = draw(st.booleans()) and rows > 0
    counts = [draw(st.integers(1, 40)) if choose else rows for _ in range(2)]
    x0 = torch.randn(counts[0], columns, generator=generator).to(draw(kind))
    x1 = torch.randn(counts[1], columns, generator=generator).to(draw(kind))
    index0 = torch.randint(counts[0], (rows,), generator=generator) if choose else None
    index1 = torch.randint(counts[1], (rows,), generator=generator) if choose else None
    if draw(st.booleans()):
        x0, index0 = None, None
    outputs = draw(st.lists(kind, min_size=1, max_size=6))
    size = (len(outputs), 3, 5)
    if draw(st.booleans()):
        cells = draw(st.sampled_from([1, 2, 33]))
        quantiles = torch.rand(cells + 1, generator=generator, dtype=F64).sort().values
        times = Clock(quantiles, draw(st.sampled_from(list(Sampling))))
    else:
        times = torch.rand(rows, generator=generator, dtype=F64) * 1.02 - 0.01
        if draw(st.booleans()):
            size = (rows, len(outputs), 3)
    table = torch.randn(size, generator=generator, dtype=F64)
    table *= torch.randint(2, size, generator=generator)
    noise = key(rows, generator, rows if draw(st.booleans()) and rows else 1)
    dtype = draw(st.sampled_from([F32, F64]))
    return x0, x1, index0, index1, table, times, noise, draw(st.booleans()), outputs, dtype


@given(calls())
def test_cpp_equals_the_reference(call):
    expected = reference.bridge(*call)
    for name in each_isa():
        for j, (got, want) in enumerate(zip(cpp.bridge(*call), expected, strict=True)):
            assert same(got, want), f"{name}: output {j}"
    times, noise = call[5:7]
    if isinstance(times, Clock):
        drawn = reference.times(*noise[:3], times)
        assert same(drawn.to(call[-1]), expected[0])
        for _ in each_isa():
            assert same(cpp.times(*noise[:3], times), drawn)


@pytest.mark.parametrize("shape", [(40_000, 2), (70, 3, 32, 32), (1100, 64)])
def test_threads_change_nothing(shape, poisoned_memory):
    generator = torch.Generator().manual_seed(0)
    x0, x1 = (torch.randn(shape, generator=generator) for _ in range(2))
    index = torch.randperm(shape[0], generator=generator)
    recipe = torch.randn(2, 3, 5, generator=generator, dtype=F64)
    clock = Clock(torch.tensor([0.1, 0.9], dtype=F64), Sampling.STRATIFIED)
    call = (x0, x1, None, index, recipe, clock, key(shape[0], generator), True, [F32, BF16], F32)
    expected = reference.bridge(*call)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert all(map(same, cpp.bridge(*call), expected))
    finally:
        torch.set_num_threads(before)


def test_noise_and_time_are_those_of_the_contract():
    """z is `normals`; t depends on the sample alone, so that rows may be dealt out anew."""
    noise = Noise(torch.tensor([7]), torch.arange(64), torch.tensor([3]), Stream.TRAINING)
    pick = torch.zeros(1, 3, 5, dtype=F64)
    pick[0, 2, 0] = 1
    uniform = Clock(torch.tensor([0.0, 1.0], dtype=F64))
    x = torch.zeros(64, 5)
    t, z = kernels.bridge(None, x, pick, uniform, noise)
    assert torch.equal(z, kernels.normals(5, *noise[:3], Stream.TRAINING))
    part = Noise(noise.seeds, noise.sample_ids[40:50], noise.draws, noise.stream)
    t_part, z_part = kernels.bridge(None, x[:10], pick, uniform, part)
    assert torch.equal(t_part, t[40:50])
    assert torch.equal(z_part, z[40:50])


class TestTimes:
    def drawn(self, sampling, quantiles=(0.0, 1.0), rows=4096, seed=1):
        noise = Noise(torch.tensor([seed]), torch.arange(rows), torch.tensor([0]))
        return kernels.times(noise, Clock(torch.tensor(quantiles, dtype=F64), sampling))

    def test_uniform(self):
        t = self.drawn(Sampling.INDEPENDENT)
        scipy_stats = pytest.importorskip("scipy.stats")
        assert scipy_stats.kstest(t.numpy(), "uniform").pvalue > 1e-3
        assert 0 < t.min() < t.max() < 1

    def test_stratified_has_one_time_in_each_share(self):
        t = self.drawn(Sampling.STRATIFIED)
        assert torch.equal((t * 4096).long(), torch.arange(4096))

    @pytest.mark.parametrize("rows", [10, 11])
    def test_antithetic_pairs_add_up_to_one(self, rows):
        t, alone = self.drawn(Sampling.ANTITHETIC, rows=rows), self.drawn(0, rows=rows)
        assert torch.equal(t[0::2], alone[0::2])
        assert torch.equal(t[1::2], 1 - alone[0::2][: rows // 2])

    def test_quantiles_shape_the_distribution(self):
        t = self.drawn(Sampling.STRATIFIED, (0.0, 0.1, 0.1, 0.4, 1.0), 4000)
        counts = torch.histc(t, 10, 0.0, 1.0)
        # A quarter below .1, a quarter at .1 itself, the others over .3 and .6 of the axis.
        expected = [1000, 1000 + 333, 333, 333] + [1000 / 6] * 6
        assert torch.allclose(counts, torch.tensor(expected, dtype=F64), atol=3)


class TestGradients:
    def make(self, rows=6, columns=3):
        generator = torch.Generator().manual_seed(3)
        x0 = torch.randn(4, columns, generator=generator, dtype=F64, requires_grad=True)
        x1 = torch.randn(5, columns, generator=generator, dtype=F64, requires_grad=True)
        index0 = torch.randint(4, (rows,), generator=generator)
        index1 = torch.randint(5, (rows,), generator=generator)
        recipe = torch.randn(2, 3, 5, generator=generator, dtype=F64)
        return x0, x1, index0, index1, recipe, key(rows, generator)

    @pytest.mark.parametrize("drawn", [True, False])
    def test_gradcheck(self, drawn):
        x0, x1, index0, index1, recipe, noise = self.make()
        times = Clock(torch.tensor([0.1, 0.9], dtype=F64))
        if not drawn:
            times = torch.linspace(0.1, 0.9, 6, dtype=F64)

        def run(x0, x1):
            options = {"index0": index0, "index1": index1, "time_dtype": F64}
            return kernels.bridge(x0, x1, recipe, times, noise, **options)[1:]

        assert torch.autograd.gradcheck(run, (x0, x1))

    def test_without_an_index_and_with_one_output_used(self):
        x0, x1, *_ = self.make()
        noise = key(4, torch.Generator().manual_seed(0))
        table = torch.randn(4, 2, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
        times = torch.full((4,), 0.5, dtype=F64)
        _, _, out = kernels.bridge(x0, x1[:4], table, times, noise)
        gradient = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(2))
        out.backward(gradient)
        assert torch.allclose(x0.grad, table[:, 1, :1] * gradient)
        assert torch.allclose(x1.grad[:4], table[:, 1, 1:2] * gradient)

    def test_opcheck_and_compile(self):
        x0, x1, index0, index1, recipe, noise = self.make()
        q = torch.tensor([0.0, 1.0], dtype=F64)
        arguments = (x0, x1, index0, index1, recipe, None, q, 0, *noise[:3], 2, True, [1, 1], 1)
        torch.library.opcheck(torch.ops.fastgen.bridge.default, arguments)
        torch.library.opcheck(torch.ops.fastgen.times.default, (*noise[:3], q, 1))

        def step(x0, x1):
            t, x_t, v = kernels.bridge(
                x0, x1, recipe, Clock(q), noise, index0=index0, index1=index1
            )
            return (x_t * v).sum() + t.sum()

        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x0, x1), step(x0, x1))


class TestErrors:
    def call(self, **changes):
        x = torch.zeros(4, 3)
        arguments = {
            "x0": x,
            "x1": x,
            "coefficients": torch.zeros(1, 3, 5, dtype=F64),
            "times": Clock(torch.tensor([0.0, 1.0], dtype=F64)),
            "noise": Noise(torch.tensor([0]), torch.arange(4), torch.tensor([0])),
        }
        arguments |= changes
        names = ("x0", "x1", "coefficients", "times", "noise")
        return kernels.bridge(*[arguments.pop(name) for name in names], **arguments)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"x0": torch.zeros(4, 2)}, r"x0: expected rows of shape \(3,\)"),
            ({"x0": torch.zeros(5, 3)}, "x0: expected 4 rows"),
            ({"x0": torch.zeros(4, 3, dtype=torch.int64)}, "x0: expected one of"),
            ({"index1": torch.zeros(3, dtype=torch.int64)}, r"index1: expected int64 \[4\]"),
            ({"index0": torch.arange(4), "x0": None}, "nothing to choose"),
            ({"coefficients": torch.zeros(4, 1, 3, dtype=F64)}, "coefficients: expected float64"),
            ({"coefficients": torch.zeros(1, 3, 5)}, "coefficients: expected float64"),
            ({"times": torch.zeros(4)}, r"times: expected float64 \[4\]"),
            ({"times": Clock(torch.zeros(1, dtype=F64))}, "quantiles: expected float64"),
            ({"times": Clock(torch.zeros(2, dtype=F64), 7)}, "sampling: expected 0, 1 or 2"),
            ({"dtypes": [torch.int32]}, r"dtypes\[0\]: expected one of"),
            ({"time_dtype": BF16}, "time_dtype: expected float32"),
        ],
    )
    def test_are_clear(self, changes, message):
        with pytest.raises(ValueError, match=message):
            self.call(**changes)

    @pytest.mark.parametrize("columns", [3, 40])
    @pytest.mark.parametrize("bad", [-1, 4, 2**40])
    def test_an_index_out_of_range(self, bad, columns, monkeypatch):
        index, x = torch.tensor([0, 1, bad, 2]), torch.zeros(4, columns)
        for backend in ("reference", "cpp"):
            monkeypatch.setenv("FASTGEN_BACKEND", backend)
            with pytest.raises(ValueError, match="index"):
                self.call(x0=x, x1=x, index1=index)

    def test_a_time_out_of_range_is_nan(self):
        t = torch.tensor([-0.1, 0.0, 1.0, math.nan], dtype=F64)
        recipe = torch.zeros(1, 3, 5, dtype=F64)
        recipe[0, 1, 1] = 1
        _, out = self.call(x1=torch.ones(4, 3), times=t, coefficients=recipe)
        assert out.isnan().all(1).tolist() == [True, False, False, True]


def test_square_roots_are_correctly_rounded():
    """torch's own are not (MKL): C++ and Triton round as IEEE says, as numpy does."""
    from fastgen.kernels.bridge.reference import square_root

    generator = torch.Generator().manual_seed(0)
    x = torch.rand(200_000, dtype=F64, generator=generator) ** 4 / 4
    x[:2] = 0
    assert (square_root(x).numpy() == np.sqrt(x.numpy())).all()


@pytest.mark.parametrize("index", [None, torch.tensor([0, 1, 5, 9])])
def test_nothing_to_choose_from_is_refused(index, backend, monkeypatch):
    monkeypatch.setenv("FASTGEN_BACKEND", backend)
    recipe = torch.zeros(1, 3, 5, dtype=torch.float64)
    recipe[0, 1, 0] = 1
    clock = Clock(torch.tensor([0.0, 1.0], dtype=torch.float64))
    noise = Noise(torch.tensor([1]), torch.arange(4), torch.tensor([0]), Stream.TRAINING)
    empty = torch.empty(0, 3)
    for x0, x1 in ((None, empty), (empty, torch.ones(4, 3))):
        name = "x1" if x0 is None else "x0"
        with pytest.raises(ValueError, match=f"{name}: expected at least one row"):
            kernels.bridge(x0, x1, recipe, clock, noise, noisy=False, **{f"index{name[1]}": index})
    batches = kernels.batches(4, torch.Size([3]), torch.float32, recipe, clock, False, 2)
    if batches is not None:
        assert batches.run(1, 0, None, empty, None, index) is None
        assert batches.run(1, 0, empty, torch.ones(4, 3), index, None) is None
    none = noise._replace(sample_ids=torch.arange(0))
    t, state = kernels.bridge(None, empty, recipe, clock, none, noisy=False)
    assert t.shape == (0,)
    assert state.shape == (0, 3)
