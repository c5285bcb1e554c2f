"""The Triton kernel of `stochastic_combine` equals the reference; see `test_combine_triton`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgen.kernels import Noise
from fastgen.kernels.stochastic_combine import reference
from fastgen.kernels.stochastic_combine.contract import MONOMIALS
from tests.support.triton_device import (
    DEVICE,
    INTERPRETED,
    MARKS,
    ON_CPU,
    defining_kernels,
)

pytest.importorskip("triton")
with defining_kernels():
    from fastgen.kernels.stochastic_combine import triton as stochastic

pytestmark = MARKS
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Triton 3.7's interpreter cuts float32 down to bfloat16; devices round to nearest even.
WRITTEN = tuple(d for d in DTYPES if not (INTERPRETED and d == torch.bfloat16))


@settings(max_examples=15 if ON_CPU else 200)
@given(
    rows=st.integers(0, 5),
    elements=st.one_of(st.integers(1, 20), st.sampled_from([64, 130, 1031])),
    inputs=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=4),
    outputs=st.lists(st.sampled_from(WRITTEN), min_size=1, max_size=2),
    units=st.integers(0, 2),
    drawn=st.booleans(),
    by_row=st.booleans(),
    draws_by_row=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_reference(
    rows, elements, inputs, outputs, units, drawn, by_row, draws_by_row, seed
):
    torch.manual_seed(seed)
    xs = [torch.randn(rows, elements).to(DEVICE, kind) for kind in inputs]
    shape = rows if by_row else 1, len(outputs), len(inputs), MONOMIALS
    table = torch.randn(shape, dtype=torch.float64) * (torch.rand(shape) < 0.6)
    table[..., {0: 1, 1: 4, 2: 5}[units] :] = 0
    table = table.to(DEVICE)
    noise, tensors = None, []
    if units and drawn:
        size = (rows, units) if draws_by_row else (units,)
        draws = torch.randint(0, 2**32, size, device=DEVICE)
        seeds = torch.randint(-(2**62), 2**62, (rows if by_row and rows else 1,), device=DEVICE)
        noise = Noise(seeds, torch.arange(rows, device=DEVICE) + 2**40, draws)
    elif units:
        tensors = [torch.randn(rows, elements).to(DEVICE) for _ in range(units)]
    expected = reference.stochastic_combine(xs, table, outputs, noise, tensors)
    results = stochastic.stochastic_combine(xs, table, outputs, noise, tensors)
    for result, wanted in zip(results, expected, strict=True):
        assert torch.equal(result, wanted)


@pytest.mark.parametrize("by_row", [False, True])
def test_bound_calls(by_row):
    """Of three steps, in any order, each with its own table and draws."""
    rows = 3 if by_row else 1
    y, f = torch.randn(3, 8, device=DEVICE), torch.randn(3, 8, device=DEVICE)
    tables = torch.randn(3, rows, 1, 2, MONOMIALS, dtype=torch.float64, device=DEVICE)
    tables[..., 4] = 0
    draws = torch.arange(3 * rows, device=DEVICE)
    draws = draws.reshape(3, rows, 1) if by_row else draws[:, None]
    noise = Noise(torch.tensor([8], device=DEVICE), torch.arange(3, device=DEVICE), draws)
    state, expected = y.clone(), y.clone()
    call = stochastic.bind_stochastic([state, None], [state], tables, noise)
    wanted = reference.bind_stochastic([expected, None], [expected], tables, noise)
    for step in (0, 2, 1, -1):
        call(step, [f])
        wanted(step, [f])
    assert torch.equal(state, expected)
