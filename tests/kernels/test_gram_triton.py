"""The Triton kernel of `gram` equals the reference; see `test_combine_triton`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgen.kernels.gram import reference
from tests.support.triton_device import DEVICE, MARKS, ON_CPU, defining_kernels

pytest.importorskip("triton")
with defining_kernels():
    from fastgen.kernels.gram import triton as gram

pytestmark = MARKS
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@settings(max_examples=15 if ON_CPU else 200)
@given(
    rows=st.integers(0, 3),
    elements=st.one_of(st.integers(0, 20), st.sampled_from([1024, 2500])),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_equals_reference(rows, elements, dtypes, seed):
    torch.manual_seed(seed)
    xs = [torch.randn(rows, elements).to(DEVICE, kind) for kind in dtypes]
    error = (gram.gram(xs) - reference.gram(xs)).abs()
    assert bool((error <= 1e-13 * (1 + elements)).all())
