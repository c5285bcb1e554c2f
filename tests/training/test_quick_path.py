"""The described call of training batches gives the bits of the general one."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastgen.training import paths, times

cpp = pytest.importorskip("fastgen.kernels.cpp")
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
