"""Kernels read memory: tensors that have none are refused, and views say what their numbers are."""

import pytest
import torch

import fastgen
from fastgen import kernels
from fastgen.common import memory
from fastgen.kernels import Clock, Noise, bind_stochastic, dispatch
from tests.support.tensor_kinds import RESOLVED, WITHOUT_MEMORY, Wrapper

pytest.importorskip("fastgen._C")
from fastgen.kernels.combine import cpp, registers
from fastgen.kernels.cpp_support import address, readable

DOUBLE = torch.float64
X = torch.linspace(0.5, 2, 12).reshape(3, 4)
TABLE = torch.full((1, 1, 1), 2.0, dtype=DOUBLE)
# torch refuses to mix fake tensors with others by an assertion.
REFUSED = (ValueError, TypeError, RuntimeError, NotImplementedError, AssertionError)


@pytest.mark.parametrize("kind", WITHOUT_MEMORY)
def test_a_tensor_without_memory_has_no_address(kind, each_look):
    x = WITHOUT_MEMORY[kind](X)
    assert memory.why_no_memory(x) is not None
    for function in (address, readable, memory.address_on_cpu, memory.readable):
        with pytest.raises(ValueError, match="memory of its own"):
            function(x)


@pytest.mark.parametrize("kind", RESOLVED)
def test_views_and_zeros_have_none_until_they_are_resolved(kind, each_look):
    x = RESOLVED[kind](X)
    with pytest.raises(ValueError, match=r"memory|contiguous"):
        address(x)
    for function in (readable, memory.readable):
        assert torch.equal(function(x), x.clone())
        assert address(function(x))


def test_what_is_in_memory_is_taken_as_it_is(each_look):
    for x in (
        X,
        X[1:],
        torch.arange(3),
        torch.nn.Parameter(X),
        X.as_subclass(type("S", (torch.Tensor,), {})),
    ):
        assert address(x) == x.data_ptr()
        assert readable(x).data_ptr() == x.data_ptr()
    assert readable(X) is X
    assert torch.equal(readable(X.T), X.T)
    assert readable(X[:0]).shape == (0, 4)
    with pytest.raises(ValueError, match=r"contiguous.*strides \[1, 4\]"):
        address(X.T)
    with pytest.raises(TypeError, match="expected a tensor, got ndarray"):
        readable(X.numpy())
    with pytest.raises(TypeError, match="x0: expected a tensor, got NoneType"):
        readable(None, "x0")


def test_torch_func_is_named(each_look):
    for transform in (torch.func.grad, torch.func.vmap):
        with pytest.raises(ValueError, match=r"torch.func .* outside of the transform"):
            transform(lambda x: readable(x).sum())(torch.ones(3, 4)[0])
    with pytest.raises(ValueError, match=r"functionalize"):
        torch.func.functionalize(lambda x: readable(x).sum())(torch.ones(3))


def bound(given):
    out = torch.zeros(3, 4)
    cpp.bind([None], [out], TABLE)([given])
    return out


def bound_stochastic(given):
    out = torch.zeros(3, 4)
    table = torch.zeros(1, 1, 1, 1, 5, dtype=DOUBLE)
    table[..., 0] = 2
    bind_stochastic([None], [out], table)(0, [given])
    return out


def stepped(given):
    run = registers.describe(X, [0], [X], [torch.float32], None, TABLE)
    result = run({}, [], given, None, None, None)
    return kernels.combine([given], TABLE)[0] if result is None else result[0]


def bridged(given):
    noise = Noise(torch.tensor([1]), torch.arange(3), torch.tensor([0]), 2)
    recipe = torch.zeros(1, 3, 5, dtype=DOUBLE)
    recipe[0, 1, 0] = 2
    clock = Clock(torch.tensor([0.0, 1.0], dtype=DOUBLE))
    return kernels.bridge(None, given, recipe, clock, noise, noisy=False)[1]


def batched(given):
    recipe = torch.zeros(1, 3, 5, dtype=DOUBLE)
    recipe[0, 1, 0] = 2
    clock = Clock(torch.tensor([0.0, 1.0], dtype=DOUBLE))
    run = kernels.batches(3, torch.Size([4]), torch.float32, recipe, clock, False, 2).run
    found = run(1, 0, None, given, None, None)
    return bridged(given) if found is None else found[1]


def sampled(given):
    """Two steps of Euler's method in a constant field: x + u."""
    model = fastgen.Model(lambda x, t: given, fastgen.schedules.Rectified(), "velocity")
    return fastgen.sample(model, given.clone() * 0, solver="euler", steps=2) + given


def integrated(given):
    f = fastgen.odeint(lambda t, y: given, torch.zeros(3, 4), [0.0, 2.0], rtol=1e-6, atol=1e-6)
    return f[-1]


def stochastic(given):
    ys = fastgen.sdeint(
        lambda t, y: given, lambda t, y: y * 0, torch.zeros(3, 4), [0.0, 2.0], steps=2
    )
    return ys[-1]


ROUTES = [bound, bound_stochastic, stepped, bridged, batched, integrated, stochastic]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", RESOLVED)
def test_views_are_read_as_what_they_say(route, kind, each_look):
    given = RESOLVED[kind](X)
    torch.testing.assert_close(route(given), 2 * given.clone(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", WITHOUT_MEMORY)
def test_no_route_reads_what_is_not_there(route, kind, each_look):
    """Refused, or the operator was handed to a wrapper, which knows what to do."""
    given = WITHOUT_MEMORY[kind](X)
    try:
        result = route(given)
    except REFUSED:
        return
    if isinstance(result, Wrapper):
        result = result.inner
    assert kind in ("wrapper", "masked", "functional", "fake", "meta"), "it had no numbers"
    if kind == "wrapper":
        torch.testing.assert_close(result, 2 * X, rtol=1e-6, atol=1e-6)
    else:
        assert type(result) is not torch.Tensor or not memory._ready(result)


def test_outputs_are_memory_too():
    with pytest.raises(ValueError, match=r"outputs\[0\]: .*negative view"):
        cpp.combine_into([X], [torch._neg_view(torch.zeros(3, 4))], TABLE)
    for kind in ("wrapper", "functional", "fake"):
        with pytest.raises(ValueError, match="memory of its own"):
            cpp.combine_into([X], [WITHOUT_MEMORY[kind](torch.zeros(3, 4))], TABLE)


def test_outputs_share_no_part_of_the_memory_of_others():
    base = torch.ones(13)
    shifted = base[None, :-1], base[None, 1:]
    into = [dispatch.load("combine_into", "cpp"), cpp.bind]
    for function in into:
        with pytest.raises(ValueError, match=r"outputs\[0\]: it shares a part of .* inputs\[0\]"):
            function([shifted[0]], [shifted[1]], TABLE)
        with pytest.raises(ValueError, match=r"outputs\[1\]: it shares memory with outputs\[0\]"):
            function([torch.ones(1, 12)], list(shifted), TABLE.expand(1, 2, 1).contiguous())
    x = X.clone()
    cpp.combine_into([x], [x], TABLE)
    assert torch.equal(x, 2 * X)
