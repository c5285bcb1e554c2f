"""The virtual Brownian tree: equality of the backends, statelessness, and the motion's law."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgen
from fastgen import kernels
from fastgen.kernels.brownian.contract import BROWNIAN_DEPTH, BROWNIAN_STREAM
from fastgen.kernels.brownian.reference import brownian as reference
from fastgen.kernels.normals import reference as noise_reference

cpp = pytest.importorskip("fastgen.kernels.brownian.cpp")
_C = pytest.importorskip("fastgen._C")

CELL = 2.0**-BROWNIAN_DEPTH
INT64 = st.integers(-(2**63), 2**63 - 1)
SAMPLE = st.one_of(st.integers(0, 100), st.integers(2**32 - 5, 2**48 - 1))
TIME = st.one_of(
    st.floats(0, 1),
    st.integers(0, 64).map(lambda k: k / 64),
    st.integers(0, 2**BROWNIAN_DEPTH).map(lambda k: k * CELL),
    st.sampled_from([0.0, -0.0, 1.0, 1 - 2**-53, 5e-324, CELL / 2, 1 - CELL / 3, 0.5, 0.5 + CELL]),
    st.sampled_from([math.nan, math.inf, -math.inf, -1e-300, 1 + 2**-52]),
)


def each_isa():
    before = _C.isa()
    try:
        for name in _C.supported_isas():
            _C.set_isa(name)
            yield name
    finally:
        _C.set_isa(before)


def same(a, b):
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def many(times, count=200_000, seed=5, tree=0):
    """W [T, count] of as many independent elements."""
    rows = torch.arange(8)
    times = torch.as_tensor(times, dtype=torch.float64)
    return cpp.brownian(count // 8, torch.tensor([seed]), rows, tree, times).flatten(1)


@settings(max_examples=40)
@given(
    rows=st.integers(0, 9),
    elements=st.one_of(st.integers(0, 70), st.integers(120, 300)),
    per_row=st.booleans(),
    own_times=st.booleans(),
    tree=st.integers(0, 127),
    data=st.data(),
)
def test_cpp_equals_reference(rows, elements, per_row, own_times, tree, data):
    seeds = torch.tensor(data.draw(st.lists(INT64, min_size=rows, max_size=rows))).long()
    seeds = seeds if per_row and rows else torch.tensor([data.draw(INT64)])
    ids = torch.tensor(data.draw(st.lists(SAMPLE, min_size=rows, max_size=rows))).long()
    count = data.draw(st.integers(0, 4))
    size = count * rows if own_times else count
    times = data.draw(st.lists(TIME, min_size=size, max_size=size))
    times = torch.tensor(times, dtype=torch.float64)
    times = times.reshape(count, rows) if own_times else times
    expected = reference(elements, seeds, ids, tree, times)
    for name in each_isa():
        assert same(cpp.brownian(elements, seeds, ids, tree, times), expected), name


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_long_samples_and_threads(threads):
    ids, seeds = torch.tensor([5, 2**40 + 1, 7]), torch.tensor([-1])
    times = torch.tensor([0.3, 0.30001], dtype=torch.float64)
    expected = reference(20_001, seeds, ids, 2, times)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name in each_isa():
            assert torch.equal(cpp.brownian(20_001, seeds, ids, 2, times), expected), name
    finally:
        torch.set_num_threads(before)


@given(times=st.lists(TIME.filter(lambda t: 0 <= t <= 1), min_size=1, max_size=12))
def test_each_time_alone_gives_the_same_bits(times):
    whole = fastgen.brownian((3, 5), times, seed=3)
    for w, t in zip(whole, times, strict=True):
        assert torch.equal(fastgen.brownian((3, 5), [t], seed=3)[0], w)


def test_order_of_times_repeats_and_times_per_sample():
    times = torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    w = fastgen.brownian((4, 3, 7), times, seed=8)
    assert torch.equal(fastgen.brownian((4, 3, 7), times.sort().values, seed=8), w[times.argsort()])
    assert torch.equal(
        fastgen.brownian((4, 3, 7), [times[0]] * 3, seed=8), w[:1].expand(3, -1, -1, -1)
    )
    own = times.reshape(10, 4)
    each = fastgen.brownian((4, 3, 7), own, seed=8)
    for i in range(4):
        assert torch.equal(each[:, i], w.reshape(10, 4, 4, 3, 7)[:, i, i])


def test_sample_is_independent_of_its_batch():
    seeds, times = [11 * i for i in range(37)], [0.7, 0.2]
    batch = fastgen.brownian((37, 23), times, seed=seeds)
    for i in (0, 17, 36):
        alone = fastgen.brownian((1, 23), times, seed=seeds[i], sample_ids=[i])
        assert torch.equal(alone[:, 0], batch[:, i])
    assert torch.equal(fastgen.brownian((37, 9), times, seed=seeds), batch[..., :9])


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"seed": 3 + 2**40}, {"sample_ids": [5 + 2**33]}, {"tree": 1}]
)
def test_every_part_of_the_key_matters(change):
    base = {"seed": 3, "sample_ids": [5], "tree": 0}
    times = [1e-3, 0.4, 1.0]
    first, second = (fastgen.brownian((1, 64), times, **k) for k in (base, base | change))
    assert (first != second).all()


def test_nodes_are_the_normals_that_the_contract_names():
    seeds, ids = torch.tensor([7]), torch.tensor([2, 9])

    def z(node):
        return noise_reference.normals(6, seeds, ids, node, BROWNIAN_STREAM + 3).double()

    def w(t):
        return fastgen.brownian((2, 6), [t], seed=7, sample_ids=ids, tree=3)[0]

    assert torch.equal(w(1.0), z(0))
    half = w(1.0) / 2 + 0.5 * z(1)
    assert torch.equal(w(0.5), half)
    three_quarters = (half + w(1.0)) * 0.5 + math.sqrt(0.5) / 2 * z(3)
    assert torch.equal(w(0.75), three_quarters)
    assert torch.equal(w(0.625), (half + three_quarters) * 0.5 + 0.25 * z(6))
    inside = 5 * CELL + CELL / 2  # where the bridge is one more bisection
    a, b = w(5 * CELL), w(6 * CELL)
    expected = (a + b) / 2 + math.sqrt(CELL) / 2 * z(2**BROWNIAN_DEPTH + 5)
    torch.testing.assert_close(w(inside), expected, rtol=1e-12, atol=1e-18)


def test_ends():
    w = fastgen.brownian((2, 9), [0.0, -0.0, 1.0, 5e-324, 1 - 2**-53], seed=1)
    assert (w[:2] == 0).all()
    z = kernels.normals(9, torch.tensor([1]), torch.arange(2), torch.tensor([0]), BROWNIAN_STREAM)
    assert torch.equal(w[2], z.double())
    assert (w[3].abs() < 1e-150).all()
    assert (w[4] - w[2]).abs().max() < 1e-6


def test_increments_add_up_and_keep_their_digits():
    times = torch.linspace(0, 1, 301, dtype=torch.float64)
    w = fastgen.brownian((4, 10), times, seed=2)
    assert torch.equal(w[-1] - w[0], fastgen.brownian((4, 10), [1.0], seed=2)[0])
    torch.testing.assert_close(w.diff(dim=0).sum(0), w[-1], rtol=0, atol=1e-14)
    # One level below a long dyadic interval the increment is its half plus a known normal.
    k = 9_999_999
    low, high = fastgen.brownian((4, 10), [k * CELL, (k + 1) * CELL], seed=2)
    inside = fastgen.brownian((4, 10), [(k + 0.5) * CELL], seed=2)[0]
    node = 2**BROWNIAN_DEPTH + k
    z = noise_reference.normals(10, torch.tensor([2]), torch.arange(4), node, BROWNIAN_STREAM)
    expected = (high - low) / 2 / math.sqrt(CELL / 2) + z.double() * math.sqrt(0.5)
    torch.testing.assert_close((inside - low) / math.sqrt(CELL / 2), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("tree", [0, 127])
def test_law(tree):
    times = [1e-7, 0.2, 0.2 + CELL, 1 / 3, 0.5, 0.7, 0.9999, 1.0]
    check_law(times, many(times, tree=tree))


@pytest.mark.slow
def test_law_of_many_samples():
    times = [CELL / 3, CELL * 1.5, 0.1, 0.25, 0.25 + CELL, 0.251, 0.5, math.pi / 4, 1.0]
    check_law(times, many(times, count=4_000_000, seed=77))


def check_law(times, w):
    """Covariance min(s, t) and normal increments over every gap, within 5 standard errors."""
    n = w.shape[1]
    times = torch.tensor(times, dtype=torch.float64)
    scaled = w / times.sqrt()[:, None]
    expected = torch.minimum(times[:, None], times) / (times[:, None] * times).sqrt()
    error = (1 + expected**2).div(n).sqrt()
    assert ((scaled @ scaled.T / n - expected).abs() < 5 * error).all()
    gaps = torch.cat([times[:1], times.diff()])
    z = torch.cat([w[:1], w.diff(dim=0)]) / gaps.sqrt()[:, None]
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert ((z**power).mean(1) - moment).abs().max() < 5 * math.sqrt(variance / n)
    for bound in (1, 2, 3):
        p = math.erfc(bound / math.sqrt(2))
        share = (z.abs() > bound).double().mean(1)
        assert (share - p).abs().max() < 5 * math.sqrt(p / n)
    squares = (z**2 - 1) / math.sqrt(2)  # increments are independent, not only uncorrelated
    product = squares @ squares.T / n
    product.fill_diagonal_(0)
    assert product.abs().max() < 8 / math.sqrt(n)


def test_marginals_inside_one_cell():
    times = [(1234 + u) * CELL for u in (0.0, 0.1, 0.5, 0.8, 1.0)]
    w = many(times)
    low, high = w[0], w[-1]
    for u, value in zip((0.1, 0.5, 0.8), w[1:-1], strict=True):
        z = (value - low - u * (high - low)) / math.sqrt(u * (1 - u) * CELL)
        assert abs(z.var() - 1) < 5 * math.sqrt(2 / len(z))
        assert abs((z * low).mean() / low.std()) < 5 / math.sqrt(len(z))


def test_elements_samples_and_trees_are_independent():
    w = torch.stack([many([0.3, 0.8], count=400_000, tree=k) for k in (0, 1, 2)])
    n = w.shape[2]
    z = (w / torch.tensor([0.3, 0.8]).sqrt()[:, None]).transpose(0, 1)
    for a in z:
        product = a @ a.T / n
        assert (product - torch.eye(3)).abs().max() < 5 * math.sqrt(2 / n)
        for lag in (1, 2, 3, 4, 64, n // 8):
            assert abs((a[0, lag:] * a[0, :-lag]).mean()) < 5 / math.sqrt(n - lag)


def test_quadratic_variation():
    for count in (64, 1000):
        w = fastgen.brownian((2, 500), torch.linspace(0, 1, count + 1), seed=4)
        variation = w.diff(dim=0).square().sum(0).flatten()
        assert abs(variation.mean() - 1) < 5 * math.sqrt(2 / count / len(variation))
        assert variation.var() == pytest.approx(2 / count, rel=0.25)


def test_opcheck():
    seeds, ids = torch.tensor([3]), torch.arange(4)
    times = torch.tensor([0.25, 0.7], dtype=torch.float64)
    torch.library.opcheck(torch.ops.fastgen.brownian, (7, seeds, ids, 1, times))
    own = times[:, None].expand(2, 4).contiguous()
    torch.library.opcheck(torch.ops.fastgen.brownian, (7, seeds, ids, 1, own))


def test_compiles_into_one_graph():
    def f(times):
        w = kernels.brownian(6, torch.tensor([3]), torch.arange(2), 0, times)
        return w.diff(dim=0) * 2

    times = torch.tensor([0.1, 0.4], dtype=torch.float64)
    assert torch.equal(torch.compile(f, fullgraph=True, backend="aot_eager")(times), f(times))


def test_dtype_shape_and_layout():
    assert fastgen.brownian((3, 2, 5), [0.5, 0.6], dtype=torch.float32).dtype == torch.float32
    assert fastgen.brownian((3, 2, 5), [0.5, 0.6]).shape == (2, 3, 2, 5)
    assert fastgen.brownian((3,), []).shape == (0, 3)
    assert fastgen.brownian((0, 4), [0.5]).shape == (1, 0, 4)
    times = torch.rand(4, 6, dtype=torch.float64)
    w = fastgen.brownian((4, 3), times.T, seed=1)
    assert torch.equal(w, fastgen.brownian((4, 3), times.T.contiguous(), seed=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": ()}, "shape: expected a batch axis"),
        ({"times": [0.1, 1.5]}, r"times: expected times in \[0, 1\], got 1.5"),
        ({"times": [-1e-300]}, r"times: expected times in \[0, 1\], got -1e-300"),
        ({"times": [math.nan]}, r"times: expected times in \[0, 1\], got nan"),
        ({"times": torch.rand(2, 3)}, r"times: expected float64 \[T\] or \[T, 2\]"),
        ({"times": torch.rand(1, 2, 3)}, r"times: expected float64 \[T\] or \[T, 2\]"),
        ({"tree": 128}, "tree=128: expected 0 <= tree < 128"),
        ({"tree": -1}, "tree=-1: expected"),
        ({"seed": [1, 2, 3]}, "seed: expected 1 or 2 seeds"),
        ({"sample_ids": [1]}, "sample_ids: expected 2 ids"),
    ],
)
def test_malformed_calls_name_the_argument(arguments, message):
    call = {"shape": (2, 3), "times": [0.5]} | arguments
    with pytest.raises(ValueError, match=message):
        fastgen.brownian(call.pop("shape"), call.pop("times"), **call)


def test_operator_checks_and_gives_nan_outside():
    seeds, ids = torch.tensor([1]), torch.arange(2)
    times = torch.tensor([math.nan, -0.1, 0.5, 1.1], dtype=torch.float64)
    w = kernels.brownian(3, seeds, ids, 0, times)
    assert w.isnan().all(dim=2).all(dim=1).tolist() == [True, True, False, True]
    with pytest.raises(ValueError, match="times: expected float64"):
        kernels.brownian(3, seeds, ids, 0, times.float())
    with pytest.raises(ValueError, match="times: expected device"):
        kernels.brownian(3, seeds, ids, 0, times.to("meta"))
    with pytest.raises(ValueError, match=r"noise\.seeds"):
        kernels.brownian(3, seeds.float(), ids, 0, times)
