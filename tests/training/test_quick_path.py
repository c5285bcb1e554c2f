"""The described call of training batches gives the bits of the general one."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastgen.training import paths, times

pytest.importorskip("fastgen.kernels.cpp_support")
_C = pytest.importorskip("fastgen._C")


@given(
    st.sampled_from([1, 2, 5, 31, 257, 700]),
    st.sampled_from([(), (1,), (2,), (3,), (2, 20)]),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.sampled_from(["independent", "stratified", "antithetic"]),
    st.sampled_from([paths.Linear(), paths.Linear(0.3), paths.Brownian(), paths.Target()]),
    st.integers(-(2**63), 2**64 - 1),
    st.booleans(),
)
def test_equals_the_general_call(rows, shape, dtype, sampling, path, seed, indexed):
    generator = torch.Generator().manual_seed(rows)
    x0, x1 = (torch.randn(rows, *shape, generator=generator).to(dtype) for _ in range(2))
    x0 = None if path.noise_source else x0
    pairs = None, torch.randperm(rows, generator=generator) if indexed else None
    options = {"seed": seed, "step": 2**32 - 1, "pairs": pairs, "targets": ("velocity", "data")}
    options["times"] = times.logit_normal(sampling=sampling, cells=7)
    expected = path.sample(x0, x1, sample_ids=range(rows), **options)
    before = _C.isa()
    try:
        for name in _C.supported_isas():
            _C.set_isa(name)
            for _ in range(2):  # the first describes, the second runs
                found = path.sample(x0, x1, **options)
                assert torch.equal(found.t, expected.t)
                assert torch.equal(found.x_t, expected.x_t)
                assert torch.equal(found.velocity, expected.velocity)
                assert torch.equal(found.data, expected.data)
    finally:
        _C.set_isa(before)


def test_other_tensors_take_the_general_way():
    path, x = paths.Linear(0.1), torch.randn(6, 4)
    path.sample(x, x)
    assert path._batches
    strided = torch.randn(4, 6).T
    assert torch.equal(path.sample(strided, x).x_t, path.sample(strided.contiguous(), x).x_t)
    assert path.sample(x.requires_grad_(), x.detach()).x_t.requires_grad
    with pytest.raises(ValueError, match="x0: expected rows of shape"):
        path.sample(torch.zeros(6, 3), x.detach())
    with pytest.raises(ValueError, match="x0: expected as many rows"):
        path.sample(torch.zeros(5, 4), x.detach())
    x = x.detach()
    for _ in range(2):
        with pytest.raises(ValueError, match="index"):
            path.sample(x, x, pairs=(None, torch.full((6,), 6)))


def test_paths_can_be_copied():
    path, x = paths.Brownian(0.5), torch.randn(6, 4)
    expected = [path.sample(x, x + 1).x_t for _ in range(2)][1]
    for other in (copy.deepcopy(path), pickle.loads(pickle.dumps(path))):
        assert torch.equal(other.sample(x, x + 1).x_t, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_batches_take_the_memory_of_those_that_are_gone(dtype):
    path, x = paths.Linear(0.1), torch.ones(64, 4096, dtype=dtype)
    path.sample(x, x)
    held = [path.sample(x, x, step=k).x_t for k in range(3)]
    before = [h.clone() for h in held]
    path.sample(x, x, step=9)
    assert len({h.data_ptr() for h in held}) == 3
    assert all(torch.equal(h, b) for h, b in zip(held, before, strict=True))
    view, address = held[0][3:], held[0].data_ptr()
    del held
    others = [path.sample(x, x, step=k) for k in range(4)]
    assert address not in {t.data_ptr() for o in others for t in (o.x_t, o.velocity)}
    assert torch.equal(view, before[0][3:])  # a view keeps the memory
    del view, others
    seen = {path.sample(x, x, step=k).x_t.data_ptr() for k in range(8)}
    assert len(seen) < 8


def test_pooled_tensors_are_like_others():
    shape = (300, 1000)
    x = _C.pooled(shape, False)
    assert x.shape == shape
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    assert _C.pooled(shape, True).dtype == torch.float64
    x.normal_()
    weight = torch.ones(1000, requires_grad=True)
    (x * weight).sum().backward()
    assert torch.allclose(weight.grad, x.sum(0), atol=1e-3)
    assert torch.equal(pickle.loads(pickle.dumps(x)), x)
    with torch.inference_mode():
        assert _C.pooled(shape, False).add(1).shape == shape
