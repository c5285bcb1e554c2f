"""The reductions over all pairs: C++ equals the float64 reference, whatever ISA and threads."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastgen.kernels import pairwise
from fastgen.kernels.pairwise import Keys, reference

_C = pytest.importorskip("fastgen._C")


@pytest.fixture(params=_C.supported_isas())
def isa(request):
    before = _C.isa()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(before)


def problem(rows, columns, dims, features, dtype, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dims, generator=g, dtype=torch.float64).to(dtype)
    y = torch.randn(columns, dims, generator=g, dtype=torch.float64).to(dtype)
    values = torch.randn(columns, features, generator=g, dtype=torch.float64).to(dtype)
    return x, y, torch.randn(columns, generator=g, dtype=torch.float64), values


def masses(rows):
    """Weights and potentials of rows for a sweep."""
    g = torch.Generator().manual_seed(rows)
    weights, before = torch.rand(2, rows, generator=g, dtype=torch.float64)
    return weights / rows, -before


def tolerance(dtype, dims):
    return (64 + dims) * torch.finfo(dtype).eps


SHAPES = [(1, 1, 1, 1), (7, 3, 2, 2), (97, 300, 5, 17), (13, 513, 300, 3), (200, 256, 16, 33)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_cpp_is_the_reference(isa, shape, dtype, poisoned_memory):
    x, y, bias, values = problem(*shape, dtype)
    keys = Keys(torch.tensor([11]), torch.arange(shape[0]) + 2**33, 5)
    within = {"rtol": 0, "atol": tolerance(dtype, shape[2])}
    expected = reference.log_sum(x, y, bias, 0.7)
    torch.testing.assert_close(pairwise.log_sum(x, y, bias, 0.7, backend="cpp"), expected, **within)
    sums, mean = pairwise.mean(x, y, bias, 0.7, values, backend="cpp")
    torch.testing.assert_close(sums, expected, **within)
    torch.testing.assert_close(mean, reference.mean(x, y, bias, 0.7, values)[1], **within)
    high, column = pairwise.best(x, y, bias, 0.7, backend="cpp")
    top, place = reference.best(x, y, bias, 0.7)
    torch.testing.assert_close(high, top, **within)
    assert torch.equal(column, place)
    sums, column = pairwise.sample(x, y, bias, 0.7, keys, backend="cpp")
    torch.testing.assert_close(sums, expected, **within)
    weights, before = masses(shape[0])
    for omega in (1.0, 1.7):
        found = pairwise.sweep(x, y, bias, 0.7, weights, before, omega, backend="cpp")
        torch.testing.assert_close(found[0], expected, **within)
        of_columns = reference.sweep(x, y, bias, 0.7, weights, before, omega)[1:]
        torch.testing.assert_close(found[1:], of_columns, rtol=4 * within["atol"], atol=1e-30)
    # Rounding decides only where a uniform is within it of a step.
    assert (column == reference.sample(x, y, bias, 0.7, keys)[1]).float().mean() > 0.98


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_sweeps_from_kept_terms_are_sweeps(isa, shape, dtype, poisoned_memory):
    x, y, bias, _ = problem(*shape, dtype)
    weights, before = masses(shape[0])
    kept = pairwise.Kept(10**7)
    change = torch.randn(shape[1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rtol = 8 * tolerance(dtype, shape[2])
    for scale, step, omega in ((0.7, 0, 1.7), (0.7, 9, 1.7), (0.7, 300, 1.0), (0.2, 301, 1.2)):
        b = bias + change + step  # what is common to all columns is no change
        expected = reference.sweep(x, y, b, scale, weights, before, omega)
        reused = kept.factors(scale, b) is not None
        assert reused == (step in (9, 300))
        found = pairwise.sweep(x, y, b, scale, weights, before, omega, kept, backend="cpp")
        torch.testing.assert_close(found[0], expected[0], rtol=0, atol=rtol)
        torch.testing.assert_close(found[1:], expected[1:], rtol=rtol, atol=1e-30)
        change = change.roll(1) * 2


def test_terms_are_kept_within_their_range_and_memory():
    x, y, bias, _ = problem(30, 40, 3, 1, torch.float32)
    kept = pairwise.Kept(4 * 96 * 256)
    sweep = partial(pairwise.sweep, x, y, backend="cpp")
    weights, before = masses(30)
    sweep(bias, 1.0, weights, before, 1.0, kept)
    far = bias.clone()
    for change, near in ((70.0, False), (40.0, True), (-math.inf, False), (math.nan, False)):
        far[3] = bias[3] + change
        assert (kept.factors(1.0, far) is not None) == near
    assert kept.factors(2.0, bias) is None
    small = pairwise.Kept(4 * 96 * 256 - 1)
    sweep(bias, 1.0, weights, before, 1.0, small)
    assert small.terms is None
    assert small.factors(1.0, bias) is None


@given(
    st.integers(1, 120),
    st.integers(1, 530),
    st.integers(1, 40),
    st.floats(1e-3, 30),
    st.integers(0, 9),
)
def test_any_shape_and_scale(rows, columns, dims, scale, seed):
    x, y, bias, _ = problem(rows, columns, dims, 1, torch.float64, seed)
    expected = torch.logsumexp(scale * x @ y.T + bias, 1)
    atol = tolerance(torch.float64, dims) * (1 + scale * dims)
    for backend in ("cpp", "reference"):
        found = pairwise.log_sum(x, y, bias, scale, backend=backend)
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_no_bit(dtype):
    x, y, bias, values = problem(500, 600, 24, 24, dtype)
    keys = Keys(torch.arange(500), torch.arange(500), 0)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        kept = pairwise.Kept(2**24)
        found.append(
            [
                pairwise.log_sum(x, y, bias, 1.0, backend="cpp"),
                *pairwise.mean(x, y, bias, 1.0, values, backend="cpp"),
                *pairwise.best(x, y, bias, 1.0, backend="cpp"),
                *pairwise.sample(x, y, bias, 1.0, keys, backend="cpp"),
                *pairwise.sweep(x, y, bias, 1.0, *masses(500), 1.5, kept, backend="cpp"),
                *pairwise.sweep(x, y, bias + bias, 1.0, *masses(500), 1.5, kept, backend="cpp"),
            ]
        )
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(p, q) for p, q in zip(found[0], other, strict=True))


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_columns_without_weight_count_for_nothing(backend):
    x, y, bias, values = problem(20, 700, 3, 2, torch.float64)
    bias[:512] = -math.inf  # two whole tiles
    bias[600] = -math.inf
    kept = bias.isfinite()
    sums, mean = pairwise.mean(x, y, bias, 1.0, values, backend=backend)
    expected, rest = reference.mean(x, y[kept], bias[kept], 1.0, values[kept])
    torch.testing.assert_close(sums, expected)
    torch.testing.assert_close(mean, rest)
    for draw in range(20):
        keys = Keys(torch.tensor([1]), torch.arange(20), draw)
        column = pairwise.sample(x, y, bias, 1.0, keys, backend=backend)[1]
        assert kept[column].all()


def test_ties_go_to_the_lowest_column():
    x, y = torch.ones(3, 2), torch.ones(600, 2)
    bias = torch.zeros(600, dtype=torch.float64)
    bias[[300, 301, 599]] = 1
    for backend in ("cpp", "reference"):
        assert pairwise.best(x, y, bias, 1.0, backend=backend)[1].tolist() == [300] * 3


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_samples_have_the_softmax_as_their_law(backend):
    """Chi squared over 700 columns in three tiles, one of them half empty."""
    _, y, bias, _ = problem(1, 700, 2, 1, torch.float32)
    rows = 40000 if backend == "cpp" else 10000
    x = torch.tensor([[0.3, -0.2]]).expand(rows, 2).contiguous()
    keys = Keys(torch.tensor([7]), torch.arange(rows), 0)
    column = pairwise.sample(x, y, bias, 1.0, keys, backend=backend)[1]
    p = (reference.scores(x[:1], y, bias, 1.0)[0]).softmax(0)
    order = p.argsort()
    bins = (p[order].cumsum(0) * 200).long().clamp(max=199)  # of about equal probability
    expected = torch.zeros(200, dtype=torch.float64).index_add_(0, bins, p[order]) * rows
    counts = torch.bincount(column, minlength=700).double()[order]
    observed = torch.zeros(200, dtype=torch.float64).index_add_(0, bins, counts)
    used = expected > 0
    chi = ((observed - expected)[used].square() / expected[used]).sum().item()
    freedom = int(used.sum()) - 1
    assert abs(chi - freedom) < 4.5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_a_sample_does_not_depend_on_its_batch(backend):
    x, y, bias, _ = problem(150, 400, 4, 1, torch.float32)
    ids = torch.arange(150) + 2**40
    whole = pairwise.sample(x, y, bias, 1.0, Keys(torch.tensor([3]), ids, 9), backend=backend)[1]
    some = torch.tensor([149, 3, 77])
    part = Keys(torch.tensor([3]), ids[some], 9)
    found = pairwise.sample(x[some], y, bias, 1.0, part, backend=backend)[1]
    assert torch.equal(found, whole[some])
    again = Keys(torch.tensor([3]), ids, 10)
    other = pairwise.sample(x, y, bias, 1.0, again, backend=backend)[1]
    assert not torch.equal(other, whole)


def test_malformed_calls_name_the_argument():
    x, y, bias, values = problem(4, 5, 3, 2, torch.float32)
    with pytest.raises(ValueError, match="x: expected float32"):
        pairwise.log_sum(x.half(), y.half(), bias, 1.0)
    with pytest.raises(ValueError, match=r"y: expected torch\.float32"):
        pairwise.log_sum(x, y[:, :2], bias, 1.0)
    with pytest.raises(ValueError, match=r"y: .*columns > 0"):
        pairwise.log_sum(x, y[:0], bias[:0], 1.0)
    with pytest.raises(ValueError, match="bias: expected float64"):
        pairwise.best(x, y, bias.float(), 1.0)
    with pytest.raises(ValueError, match="values"):
        pairwise.mean(x, y, bias, 1.0, values[:4])
    with pytest.raises(ValueError, match="sample_ids"):
        pairwise.sample(x, y, bias, 1.0, Keys(torch.tensor([1]), torch.arange(3), 0))
    with pytest.raises(ValueError, match="weights: expected float64"):
        pairwise.sweep(x, y, bias, 1.0, torch.ones(4), bias[:4], 1.0)
    with pytest.raises(ValueError, match=r"before: .*\[4\]"):
        pairwise.sweep(x, y, bias, 1.0, bias[:4], bias, 1.0)
    with pytest.raises(ValueError, match="draw"):
        pairwise.sample(x, y, bias, 1.0, Keys(torch.tensor([1]), torch.arange(4), -1))


def test_no_rows_are_no_work():
    x, y, bias, _ = problem(0, 5, 3, 1, torch.float32)
    for backend in ("cpp", "reference"):
        assert pairwise.log_sum(x, y, bias, 1.0, backend=backend).shape == (0,)
        nothing = torch.empty(0, dtype=torch.float64)
        swept = pairwise.sweep(x, y, bias, 1.0, nothing, nothing, 1.0, backend=backend)
        assert torch.equal(swept[1], torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("columns", [3, 256, 257, 600])
@pytest.mark.parametrize("size", [1.0, 1e15, 1e18, 1e25, 1e35])
def test_scores_of_any_size(isa, backend, columns, size):
    """Below -2e30 there was once nothing; beyond float32 the arithmetic is float64."""
    x, y = torch.full((5, 2), size), -torch.arange(1.0, columns + 1)[:, None].expand(columns, 2)
    y = y * min(size, 1e25)
    bias = torch.zeros(columns, dtype=torch.float64)
    high, column = pairwise.best(x, y, bias, 2.0, backend=backend)
    assert column.tolist() == [0] * 5
    expected = 4 * x[:, 0].double() * y[0, 0].double()
    torch.testing.assert_close(high, expected, rtol=1e-6, atol=0)
    keys = Keys(torch.tensor([1]), torch.arange(5), 0)
    total, drawn = pairwise.sample(x, y, bias, 2.0, keys, backend=backend)
    if size > 1:
        assert drawn.tolist() == [0] * 5
        torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
        mean = pairwise.mean(x, y, bias, 2.0, torch.arange(1.0 * columns)[:, None], backend=backend)
        # Terms are no smaller than float32's least.
        assert mean[1].abs().max() < 1e-30
        assert mean[1].dtype == torch.float32
    assert (drawn >= 0).all()
    assert (drawn < columns).all()


@pytest.mark.parametrize("operation", ["best", "sample", "mean"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_has_no_scores_is_refused(operation, value, backend):
    x, y, bias = torch.ones(4, 2), torch.ones(300, 2), torch.zeros(300, dtype=torch.float64)
    more = {
        "best": (),
        "sample": (Keys(torch.tensor([1]), torch.arange(4), 0),),
        "mean": (torch.ones(300, 1),),
    }[operation]
    call = partial(getattr(pairwise, operation), backend=backend)
    spoilt = x.clone()
    spoilt[2, 1] = value
    with pytest.raises(ValueError, match="x: expected finite numbers"):
        call(spoilt, y, bias, 2.0, *more)
    with pytest.raises(ValueError, match="y: expected finite numbers"):
        call(x, y.index_fill(0, torch.tensor([299]), value), bias, 2.0, *more)
    if value != -math.inf:
        with pytest.raises(ValueError, match="bias: expected numbers above -1e"):
            call(x, y, bias.index_fill(0, torch.tensor([299]), value), 2.0, *more)
    with pytest.raises(ValueError, match="scores may be as large as"):
        call(
            x.double() * 1e200,
            y.double() * 1e200,
            bias,
            2.0,
            *[m.double() if isinstance(m, torch.Tensor) else m for m in more],
        )
