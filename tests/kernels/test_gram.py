"""Inner products of each sample's tensors: the implementations, derivatives, what they refuse."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgen import kernels
from fastgen.kernels import dispatch
from fastgen.kernels.gram import reference

cpp = pytest.importorskip("fastgen.kernels.gram.cpp")
_C = pytest.importorskip("fastgen._C")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def strided(x, how):
    """The same numbers in other memory."""
    if how == "every second":
        return torch.stack([x, x + 1], -1)[..., 0]
    return x.flip(0).neg()._neg_view().flip(0) if how == "negative" else x


@settings(max_examples=40)
@given(
    rows=st.integers(0, 4),
    elements=st.one_of(st.integers(0, 20), st.sampled_from([511, 513, 4096, 9001])),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=8),
    how=st.sampled_from(["as it is", "every second", "negative"]),
    threads=st.sampled_from([1, 2]),
    seed=st.integers(0, 1000),
)
def test_cpp_equals_the_reference_and_itself(rows, elements, dtypes, how, threads, seed):
    torch.manual_seed(seed)
    xs = [strided(torch.randn(rows, elements).to(kind), how) for kind in dtypes]
    want = reference.gram(xs)
    found = []
    before, isa = torch.get_num_threads(), _C.isa()
    try:
        torch.set_num_threads(threads)
        for name in _C.supported_isas():
            _C.set_isa(name)
            found.append(cpp.gram(xs))
    finally:
        torch.set_num_threads(before)
        _C.set_isa(isa)
    assert all(torch.equal(other, found[0]) for other in found)
    error = (found[0] - want).abs()
    assert bool((error <= 1e-13 * (1 + elements)).all())
    if rows:  # a sample's sums do not depend on its batch
        assert torch.equal(cpp.gram([x[-1:] for x in xs]), found[0][-1:])


def test_a_difference_keeps_its_digits():
    c = torch.randn(2, 5000)
    u = c + 1e-5 * torch.randn(2, 5000)
    g = kernels.gram([c, u])
    d = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    want = (c.double() - u.double()).square().sum(1)
    torch.testing.assert_close(d @ g @ d, want, rtol=1e-4, atol=0)


def test_derivatives():
    xs = [torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def call(*xs):
        return kernels.gram(list(xs))

    assert torch.autograd.gradcheck(call, xs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, xs)
    torch.library.opcheck(torch.ops.fastgen.gram, ([x.detach() for x in xs],))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "inputs: expected 1 to 8 tensors, got 0"),
        ([torch.ones(2, 2)] * 9, "inputs: expected 1 to 8 tensors, got 9"),
        ([torch.ones(2, 2), torch.ones(2, 3)], r"inputs\[1\]: expected shape \(2, 2\)"),
        ([torch.ones(())], r"inputs\[0\]: expected shape"),
        ([torch.ones(2, 2, dtype=torch.int64)], r"inputs\[0\]: expected one of"),
        ([torch.ones(2, 2), torch.ones(2, 2, device="meta")], r"inputs\[1\]: expected device"),
    ],
)
def test_what_does_not_fit_is_named(inputs, message):
    with pytest.raises(ValueError, match=message):
        kernels.gram(inputs)


def test_every_backend_has_it():
    assert dispatch.load("gram", "reference") is reference.gram
    assert dispatch.load("gram", "cpp") is cpp.gram
