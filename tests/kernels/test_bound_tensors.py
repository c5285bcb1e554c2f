"""What bound C++ calls take and refuse, by each way in which C++ looks at tensors."""

import pytest
import torch

from fastgen.kernels import Noise
from fastgen.kernels.combine import reference
from fastgen.kernels.stochastic_combine.contract import MONOMIALS
from fastgen.kernels.stochastic_combine.reference import stochastic_combine

cpp = pytest.importorskip("fastgen.kernels.combine.cpp", reason="the C++ kernels are not built")
cpp_stochastic = pytest.importorskip("fastgen.kernels.stochastic_combine.cpp")

pytestmark = pytest.mark.usefixtures("each_look")
KINDS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Wrapped(torch.Tensor):
    """A subclass with memory like any tensor's."""


def layouts(kind):
    """Tensors [3, 4] of every layout that a network may return."""
    x = torch.randn(3, 4).to(kind)
    return {
        "plain": x,
        "transposed": x.T.contiguous().T,
        "a view at an offset": torch.cat([x, x])[2:5],
        "strided": torch.cat([x, x], 1)[:, 1:5],
        "expanded": x[:1].expand(3, 4),
        "with a gradient": x.clone().requires_grad_(),
        "a parameter": torch.nn.Parameter(x),
        "of a subclass": x.as_subclass(Wrapped),
        "every second": torch.cat([x, x])[::2],
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", layouts(torch.float32))
def test_combine(kind, layout):
    x, out = torch.randn(3, 4), torch.empty(3, 4)
    table = torch.tensor([[[2.0, -0.5]]], dtype=torch.float64)
    call = cpp.bind([x, None], [out], table)
    given = layouts(kind)[layout]
    call([given])
    assert torch.equal(out, reference.combine([x, given.detach()], table, [out.dtype])[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", layouts(torch.float32))
def test_stochastic_combine(kind, layout):
    x, out = torch.randn(3, 4), torch.empty(3, 4)
    tables = torch.randn(1, 1, 1, 2, MONOMIALS, dtype=torch.float64)
    noise = Noise(torch.tensor([5]), torch.arange(3), torch.tensor([[4, 9]]))
    call = cpp_stochastic.bind_stochastic([x, None], [out], tables, noise)
    given = layouts(kind)[layout]
    call(0, [given])
    drawn = noise._replace(draws=noise.draws[0])
    expected = stochastic_combine([x, given.detach()], tables[0], [out.dtype], drawn)
    assert torch.equal(out, expected[0])


def test_shapes_without_elements_or_strides():
    for shape in [(0, 3), (2, 0), (1, 4), (4, 1), (1, 1), (2, 1, 3)]:
        out = torch.empty(shape)
        call = cpp.bind([None], [out], torch.full((1, 1, 1), 2.0, dtype=torch.float64))
        call([torch.ones(shape).transpose(0, -1).contiguous().transpose(0, -1)])
        assert torch.equal(out, 2 * torch.ones(shape))


@pytest.mark.parametrize(
    "other", ["meta", "sparse", "shape", "dimensions", "complex", "integers", "none"]
)
def test_what_has_no_such_memory_is_refused(other):
    x = torch.randn(3, 4)
    out = torch.full((3, 4), 7.0)
    call = cpp.bind([None], [out], torch.ones(1, 1, 1, dtype=torch.float64))
    given = {
        "meta": x.to("meta"),
        "sparse": x.to_sparse(),
        "shape": x[:2],
        "dimensions": x[None],
        "complex": torch.complex(x, x),
        "integers": x.long(),
        "none": None,
    }[other]
    with pytest.raises((ValueError, TypeError)):
        call([given])
    assert torch.equal(out, torch.full((3, 4), 7.0)), "nothing ran"


def test_functional_transforms_are_refused():
    out = torch.empty(3, 4)
    call = cpp.bind([None], [out], torch.ones(1, 1, 1, dtype=torch.float64))
    with pytest.raises((ValueError, RuntimeError)):
        torch.func.grad(lambda x: call([x]) or x.sum())(torch.ones(3, 4))
