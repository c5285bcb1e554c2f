"""Derivatives and vmap of the operators in every way torch has to ask, against the references."""

import pytest
import torch
from torch import func
from torch.autograd import forward_ad, functional
from torch.utils import _pytree as pytree

from fastgen import kernels
from fastgen.kernels import Known, Noise
from fastgen.kernels.bridge import reference as bridge_reference
from fastgen.kernels.combine import reference as combine_reference
from fastgen.kernels.stochastic_combine import reference as random_reference

GENERATOR = torch.Generator().manual_seed(0)


def numbers(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR)


D = torch.float64
A, B = numbers(4, 3), numbers(4, 3)
TABLE, ROWS, RANDOM, COEFFICIENTS = (
    numbers(1, 2, 3),
    numbers(4, 2, 3),
    numbers(1, 2, 2, 5),
    numbers(4, 2, 3),
)
RANDOM[..., 4] = 0  # the second noise, which is not given
TIMES = torch.rand(4, dtype=D, generator=GENERATOR)
NOISE = Noise(torch.tensor([3]), torch.arange(4), torch.tensor([2]))
INDEX = torch.tensor([3, 1, 1, 0])
CLIP = (-0.5, 0.5)
MORE, SOFT, MASK = numbers(1, 4, 2), numbers(4, 3, 3), torch.tensor([[True, False, True]])
WEIGHTS = torch.tensor([[0.0, 0.3, 1.0]] * 3 + [[0.7, 0.5, 0.2]], dtype=D)


def bridge_by_reference(index, a, b):
    found = bridge_reference.bridge(
        a, b, index, None, COEFFICIENTS, TIMES, NOISE, True, [D, D], torch.float32
    )
    return found[1:]


# The operator, and the same function in torch operations.
CASES = {
    "combine": (
        lambda a, b: kernels.combine([a, b], TABLE[:, :, :2].contiguous()),
        lambda a, b: combine_reference.combine([a, b], TABLE[:, :, :2], [D, D]),
    ),
    "combine with a clip": (
        lambda a, b: kernels.combine([a, b], ROWS, clip=CLIP),
        lambda a, b: combine_reference.combine([a, b], ROWS, [D], clip=CLIP),
    ),
    "combine with noise": (
        lambda a, b: kernels.combine([a, b], ROWS, noise=NOISE),
        lambda a, b: combine_reference.combine([a, b], ROWS, [D, D], noise=NOISE),
    ),
    "combine of what is known": (
        lambda a, b: kernels.combine([a], MORE, known=Known(b[:1], MASK)),
        lambda a, b: combine_reference.combine([a], MORE, [D, D], known=Known(b[:1], MASK)),
    ),
    "combine of weights, with a clip": (
        lambda a, b: kernels.combine([a], SOFT, clip=CLIP, known=Known(b, WEIGHTS)),
        lambda a, b: combine_reference.combine([a], SOFT, [D], clip=CLIP, known=Known(b, WEIGHTS)),
    ),
    "stochastic_combine": (
        lambda a, b: kernels.stochastic_combine([a, b], RANDOM, noise=NOISE),
        lambda a, b: random_reference.stochastic_combine([a, b], RANDOM, [D, D], NOISE),
    ),
    "bridge": (
        lambda a, b: kernels.bridge(a, b, COEFFICIENTS, TIMES, NOISE)[1:],
        lambda a, b: bridge_by_reference(None, a, b),
    ),
    "bridge of chosen rows": (
        lambda a, b: kernels.bridge(a, b, COEFFICIENTS, TIMES, NOISE, index0=INDEX)[1:],
        lambda a, b: bridge_by_reference(INDEX, a, b),
    ),
}


def dual(f):
    with forward_ad.dual_level():
        found = f(forward_ad.make_dual(A, B), B)
        return [forward_ad.unpack_dual(x).tangent for x in found]


WAYS = {
    "dual numbers": dual,
    "jvp": lambda f: func.jvp(f, (A, B), (B, A))[1],
    "grad": lambda f: func.grad(lambda a, b: f(a, b)[-1].square().sum(), argnums=(0, 1))(A, B),
    "jacfwd": lambda f: func.jacfwd(lambda a: f(a, B)[-1])(A),
    "jacrev": lambda f: func.jacrev(lambda a: f(a, B)[-1])(A),
    "forward over forward": lambda f: func.jacfwd(func.jacfwd(lambda a: f(a * a, B)[-1].sum()))(A),
    "forward over reverse": lambda f: func.hessian(lambda a: f(a * a, B)[-1].sum())(A),
    "reverse over forward": lambda f: func.jacrev(func.jacfwd(lambda a: f(a * a, B)[-1].sum()))(A),
    "vmap": lambda f: torch.vmap(lambda a: f(a, B))(torch.stack([A, B])),
    "vmap of jvp": lambda f: torch.vmap(lambda a: func.jvp(lambda x: f(x, B)[0], (a,), (B,))[1])(
        torch.stack([A, B])
    ),
    "functionalize": lambda f: func.functionalize(lambda a: f(a, B)[0])(A),
    "forward-mode jacobian": lambda f: functional.jacobian(
        lambda a: f(a, B)[-1], A, strategy="forward-mode", vectorize=True
    ),
    "vectorised jacobian": lambda f: functional.jacobian(lambda a: f(a, B)[-1], A, vectorize=True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_operators_like_their_references(case, way):
    found, wanted = (pytree.tree_leaves(WAYS[way](f)) for f in CASES[case])
    assert len(found) == len(wanted)
    for x, y in zip(found, wanted, strict=True):
        assert torch.allclose(x, y, atol=1e-12)
    assert any(bool(x.any()) for x in found)


@pytest.mark.parametrize("case", CASES)
def test_numerically(case):
    inputs = (A.clone().requires_grad_(), B.clone().requires_grad_())
    for j in range(len(CASES[case][0](A, B))):
        assert torch.autograd.gradcheck(
            lambda a, b, j=j: CASES[case][0](a, b)[j],
            inputs,
            check_forward_ad=True,
            check_batched_grad=True,
            check_batched_forward_grad=True,
        )


def test_a_linear_stage_keeps_no_input_for_the_way_back():
    x = A.clone().requires_grad_()
    y = kernels.combine([x, B], TABLE[:, :, :2].contiguous())[0]
    assert not hasattr(y.grad_fn, "flat")
    assert all(s.shape != A.shape for s in y.grad_fn.saved_tensors)


def test_derivatives_in_coefficients_are_refused():
    def call(table):
        return torch.ops.fastgen.combine([A, B], table, [1, 1], None, None, None, None, 0)

    table = TABLE[:, :, :2].contiguous()
    with pytest.raises(ValueError, match=r"table: fastgen::combine has derivatives in inputs"):
        call(table.clone().requires_grad_())
    with pytest.raises(ValueError, match=r"table: fastgen::combine has derivatives in inputs"):
        func.jvp(call, (table,), (table,))


def test_derivatives_in_the_time_of_a_path_are_refused():
    def motion(t):
        return kernels.brownian(2, NOISE.seeds, NOISE.sample_ids, 0, t)

    with pytest.raises(ValueError, match="no derivative in time"):
        func.jvp(motion, (TIMES,), (TIMES,))
    with pytest.raises(ValueError, match="no derivative in time"):
        motion(TIMES.clone().requires_grad_())


def test_vmap_of_noise_is_a_call_for_each_member():
    ids = torch.tensor([[0, 1], [5, 9]])
    draw = torch.tensor([2])

    def of(ids):
        return kernels.normals(3, torch.tensor([7]), ids, draw, 0)

    assert torch.equal(torch.vmap(of)(ids), torch.stack([of(row) for row in ids]))
