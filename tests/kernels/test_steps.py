"""`kernels.steps`: `combine` on tensors that come with the call, and what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgen.kernels import reference

steps = pytest.importorskip("fastgen.kernels.steps", reason="the C++ kernels are not built")
KINDS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def tensors(shape, kinds, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(k) for k in kinds]


@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    kinds=st.lists(st.sampled_from(KINDS), min_size=4, max_size=4),
    source=st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True),
    outputs=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    written=st.integers(0, 2),
    clip=st.sampled_from([None, (-0.5, 0.7)]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_reference(shape, kinds, source, outputs, written, clip, seed):
    """Any of the four given tensors and of the caller's own, to new tensors and to given ones."""
    given_tensors, own = tensors(shape, kinds, seed), tensors(shape, [torch.float32] * 2, seed + 1)
    inputs = [given_tensors[i] if i < steps.GIVEN else own[i - steps.GIVEN] for i in source]
    extra = clip is not None
    size = (1, len(outputs) + written + extra, len(inputs) + extra)
    table = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    kept = [torch.float32] * written
    run = steps.describe(given_tensors[0], source, inputs, outputs, kept, table, clip)
    buffers = [torch.full(shape, torch.nan) for _ in range(written)]
    made = run(table.data_ptr(), 1, tuple(own), tuple(buffers), *given_tensors)
    assert made is not None
    expected = reference.combine(inputs, table, outputs + kept, clip)
    for found, want in zip([*made, *buffers], expected, strict=True):
        assert found.dtype == want.dtype
        assert torch.equal(found, want)


def layout():
    x, y = tensors((3, 4), [torch.float32] * 2)
    table = torch.ones(1, 1, 2, dtype=torch.float64)
    run = steps.describe(x, [0, 1], [x, y], [torch.float32], [], table)
    return lambda *given: run(table.data_ptr(), 1, (), (), *given, None, None), x, y


def test_what_does_not_fit_runs_nothing():
    run, x, y = layout()
    assert torch.equal(run(x, y)[0], x + y)
    for other in (
        y.double(),
        y[:2],
        y.T.contiguous().T,
        y.clone().requires_grad_(),
        torch.nn.Parameter(y),
        y.to("meta"),
    ):
        assert run(x, other) is None
        assert run(other, y) is None


def test_addresses_are_taken_for_float32_only():
    x, y = tensors((3, 4), [torch.float32, torch.float64])
    table = torch.ones(1, 1, 2, dtype=torch.float64)
    run = steps.describe(x, [0, 4], [x, y], [torch.float32], [], table)
    assert run(table.data_ptr(), 1, (y.data_ptr(),), (), x, None, None, None) is None
    assert run(table.data_ptr(), 1, (y,), (), x, None, None, None) is not None
    assert run(table.data_ptr(), 1, (), (), x, None, None, None) is None
    with pytest.raises(TypeError, match="expected run"):
        run(table.data_ptr(), 1, [y], (), x, None, None, None)
    with pytest.raises(ValueError, match="one for all rows"):
        steps.describe(x, [0], [x], [x.dtype], [], torch.ones(3, 1, 1, dtype=torch.float64))
