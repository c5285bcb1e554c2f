"""`stochastic_combine`: equality of the backends, its gradient, errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgen.kernels import Noise
from fastgen.kernels.normals import reference as noise_reference
from fastgen.kernels.stochastic_combine import reference
from fastgen.kernels.stochastic_combine.contract import MONOMIALS
from fastgen.kernels.stochastic_combine.operator import bind_stochastic, stochastic_combine

cpp = pytest.importorskip("fastgen.kernels.stochastic_combine.cpp")
_C = pytest.importorskip("fastgen._C")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def each_isa():
    before = _C.isa()
    try:
        for name in _C.supported_isas():
            _C.set_isa(name)
            yield name
    finally:
        _C.set_isa(before)


def random_table(rows, outputs, inputs, monomials, generator):
    table = torch.randn(rows, outputs, inputs, MONOMIALS, dtype=torch.float64, generator=generator)
    table *= torch.rand(table.shape, generator=generator) < 0.6
    table[..., monomials:] = 0
    return table


def same(a, b):
    return a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())


@settings(max_examples=60)
@given(
    rows=st.integers(0, 6),
    elements=st.one_of(st.integers(0, 40), st.integers(500, 1100)),
    inputs=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=6),
    outputs=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3),
    units=st.integers(0, 2),
    drawn=st.booleans(),
    by_row=st.booleans(),
    draws_by_row=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_cpp_equals_reference(
    rows, elements, inputs, outputs, units, drawn, by_row, draws_by_row, seed
):
    generator = torch.Generator().manual_seed(seed)
    xs = [torch.randn(rows, elements, generator=generator).to(kind) for kind in inputs]
    monomials = {0: 1, 1: 4, 2: 5}[units]
    table = random_table(rows if by_row else 1, len(outputs), len(inputs), monomials, generator)
    noise, tensors = None, []
    if units and drawn:
        shape = (rows, units) if draws_by_row else (units,)
        draws = torch.randint(0, 2**32, shape, generator=generator)
        noise = Noise(torch.tensor([seed]), torch.arange(rows) + 2**40, draws)
    elif units:
        kinds = [torch.float64, torch.float32][:units]
        tensors = [torch.randn(rows, elements, generator=generator).to(kind) for kind in kinds]
    expected = reference.stochastic_combine(xs, table, outputs, noise, tensors)
    for name in each_isa():
        results = cpp.stochastic_combine(xs, table, outputs, noise, tensors)
        for result, wanted in zip(results, expected, strict=True):
            assert same(result, wanted), name


def test_formula_against_float64():
    generator = torch.Generator().manual_seed(1)
    xs = [torch.randn(3, 7, generator=generator) for _ in range(3)]
    table = torch.randn(3, 2, 3, MONOMIALS, dtype=torch.float64, generator=generator)
    noise = Noise(torch.tensor([5]), torch.arange(3), torch.tensor([4, 9]))
    z, other = (
        noise_reference.normals(7, noise.seeds, noise.sample_ids, d, noise.stream).double()
        for d in (4, 9)
    )
    m = torch.stack([torch.ones_like(z), z, z**2, z**3, other], -1)
    expected = torch.einsum("bjik,bek,bei->jbe", table, m, torch.stack(xs, -1).double())
    results = torch.stack(stochastic_combine(xs, table, noise=noise))
    torch.testing.assert_close(results.double(), expected, rtol=1e-4, atol=1e-5)


def test_absent_terms_are_not_formed():
    x, bad = torch.ones(2, 3), torch.full((2, 3), torch.inf)
    table = torch.zeros(2, 1, 2, MONOMIALS, dtype=torch.float64)
    table[:, 0, 0, 0] = 2
    for module in (reference, cpp):
        assert torch.equal(module.stochastic_combine([x, bad], table, [x.dtype])[0], 2 * x)


@pytest.mark.parametrize("threads", [1, 3])
def test_long_tensors_and_threads(threads, poisoned_memory):
    x = torch.randn(3, 40_001)
    table = torch.randn(3, 1, 1, MONOMIALS, dtype=torch.float64)
    noise = Noise(torch.tensor([1, 2, 3]), torch.arange(3), torch.tensor([0, 1]))
    expected = reference.stochastic_combine([x], table, [x.dtype], noise)[0]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(cpp.stochastic_combine([x], table, [x.dtype], noise)[0], expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_bound_calls_take_the_tables_and_draws_of_their_step(backend):
    y, f = torch.randn(4, 5), torch.randn(4, 5)
    tables = torch.randn(3, 1, 1, 3, MONOMIALS, dtype=torch.float64)
    tables[..., 4] = 0
    noise = Noise(torch.tensor([8]), torch.arange(4), torch.arange(3)[:, None])
    state = y.clone()
    call = bind_stochastic([state, None, None], [state], tables, noise=noise, backend=backend)
    expected = y
    for step in (0, 1, 2):
        drawn = noise._replace(draws=noise.draws[step])
        (expected,) = reference.stochastic_combine(
            [expected, f, 2 * f], tables[step], [y.dtype], drawn
        )
        call(step, [f, 2 * f])
        assert torch.equal(state, expected)


def test_bound_calls_adapt_to_layout_and_dtype():
    y = torch.randn(4, 6)
    out = torch.empty_like(y)
    tables = torch.randn(1, 1, 1, 2, MONOMIALS, dtype=torch.float64)
    tables[..., 2:] = 0
    call = bind_stochastic([y, None], [out], tables, given=[None])
    f, z = torch.randn(6, 4, dtype=torch.bfloat16).T, torch.randn(4, 6, dtype=torch.float64)
    call(0, [f, z])
    expected = reference.stochastic_combine([y, f], tables[0], [y.dtype], None, [z])[0]
    assert torch.equal(out, expected)
    with pytest.raises(ValueError, match="expected tensors of shape"):
        call(0, [f, z[:2]])
    with pytest.raises(IndexError, match="step"):
        call(1, [y, y])


@pytest.mark.parametrize("drawn", [True, False])
def test_gradient_is_the_transposed_combination(drawn):
    xs = [torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    table = torch.randn(2, 2, 3, MONOMIALS, dtype=torch.float64)
    noise = Noise(torch.tensor([5]), torch.arange(2), torch.tensor([4, 9])) if drawn else None
    tensors = [] if drawn else [torch.randn(2, 3, dtype=torch.float64) for _ in range(2)]

    def f(*inputs):
        return tuple(stochastic_combine(list(inputs), table, noise=noise, given=tensors))

    assert torch.autograd.gradcheck(f, xs)
    assert torch.autograd.gradgradcheck(f, xs)


def test_opcheck():
    xs = [torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)]
    table = torch.randn(1, 1, 2, MONOMIALS, dtype=torch.float64)
    keys = torch.tensor([5]), torch.arange(2), torch.tensor([4, 9])
    op = torch.ops.fastgen.stochastic_combine
    torch.library.opcheck(op, (xs, table, [0], *keys, 1, []))
    torch.library.opcheck(op, (xs, table, [0], None, None, None, 0, [xs[1], xs[1]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": []}, "inputs: expected 1 to 24"),
        ({"inputs": [torch.ones(2, 3), torch.ones(3, 2)]}, r"inputs\[1\]: expected shape"),
        ({"inputs": [torch.ones(2, 3).int()] * 2}, r"inputs\[0\]: expected one of"),
        ({"table": torch.ones(1, 1, 2, 4).double()}, r"table: expected float64 \[1 or 2, 1, 2, 5"),
        ({"table": torch.ones(1, 1, 2, 5)}, "table: expected float64"),
        ({"dtypes": []}, "dtypes: expected 1 to 8"),
        ({"dtypes": [torch.int32]}, r"dtypes\[0\]"),
        ({"given": [torch.ones(3, 2)] * 2}, r"given\[0\]: expected shape"),
        ({"given": [torch.ones(2, 3)] * 3}, "given: expected at most"),
        ({"given": [torch.ones(2, 3)]}, "table: monomial 4 needs more than 1"),
        ({"given": []}, "table: monomial 1 needs more than 0"),
        ({"given": [torch.ones(2, 3, requires_grad=True)] * 2}, "given: .*detach given"),
        (
            {"given": [], "noise": Noise(torch.tensor([1]), torch.arange(2), torch.arange(3))},
            "expected one or two draws",
        ),
    ],
)
def test_malformed_calls_name_the_argument(arguments, message):
    call = {
        "inputs": [torch.ones(2, 3)] * 2,
        "table": torch.ones(1, 1, 2, 5).double(),
        "dtypes": [torch.float32],
        "given": [torch.ones(2, 3)] * 2,
    } | arguments
    with pytest.raises(ValueError, match=message):
        stochastic_combine(call.pop("inputs"), call.pop("table"), **call)


def test_bound_tensors_are_contiguous_and_all_tables_checked(backend):
    out = torch.empty(8, 64)
    table = torch.zeros(1, 1, 1, 1, MONOMIALS, dtype=torch.float64)
    table[..., :2] = 1
    z = torch.randn(1, 1).expand(8, 64)
    with pytest.raises(ValueError, match=r"given\[0\]: expected a contiguous tensor"):
        bind_stochastic([None], [out], table, given=[z], backend=backend)
    tables = torch.zeros(2, 1, 1, 1, MONOMIALS, dtype=torch.float64)
    tables[..., 0] = 1
    tables[1, ..., 4] = 1
    noise = Noise(torch.tensor([1]), torch.arange(8), torch.zeros(2, 1, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match="table: monomial 4 needs more than 1 unit"):
        bind_stochastic([None], [out], tables, noise=noise, backend=backend)
    with pytest.raises(ValueError, match=r"noise.draws: expected \[steps, K\]"):
        bind_stochastic([None], [out], tables, noise=noise._replace(draws=torch.zeros(2).long()))
    with pytest.raises(ValueError, match="outputs, tables"):
        bind_stochastic([None], [out], tables[0], noise=noise)
