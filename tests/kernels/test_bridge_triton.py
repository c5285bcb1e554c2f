"""The Triton `bridge` equals the reference bit for bit: under the interpreter, or on a device."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgen.kernels import Clock, Noise, Sampling
from fastgen.kernels.bridge import reference
from tests.support.triton_device import (
    DEVICE,
    INTERPRETED,
    MARKS,
    ON_CPU,
    defining_kernels,
    same,
    to_device,
)

pytest.importorskip("triton")
with defining_kernels():
    from fastgen.kernels.bridge import triton

pytestmark = MARKS
EXAMPLES = 25 if ON_CPU else 300
F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
# The interpreter cuts float32 down to bfloat16 where devices round.
KINDS = [[F32], [F64], [F32, F16]] + ([] if INTERPRETED else [[F32, BF16], [BF16]])


@st.composite
def calls(draw):
    rows, columns = draw(
        st.sampled_from([(0, 3), (1, 1), (1, 70), (3, 5), (300, 1), (300, 2), (40, 8), (3, 1030)])
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    kind = st.sampled_from(draw(st.sampled_from(KINDS)))
    choose = draw(st.booleans()) and rows > 0
    counts = [draw(st.integers(1, 40)) if choose else rows for _ in range(2)]
    x0, x1 = (torch.randn(n, columns, generator=generator).to(draw(kind)) for n in counts)
    index0 = torch.randint(counts[0], (rows,), generator=generator) if choose else None
    index1 = torch.randint(counts[1], (rows,), generator=generator) if choose else None
    if draw(st.booleans()):
        x0, index0 = None, None
    outputs = draw(st.lists(kind, min_size=1, max_size=4))
    size = (len(outputs), 3, 5)
    if draw(st.booleans()):
        cells = draw(st.sampled_from([1, 2, 33]))
        quantiles = torch.rand(cells + 1, generator=generator, dtype=F64).sort().values
        times = Clock(quantiles, draw(st.sampled_from(list(Sampling))))
    else:
        times = torch.rand(rows, generator=generator, dtype=F64) * 1.02 - 0.01
        if draw(st.booleans()):
            size = (rows, len(outputs), 3)
    table = torch.randn(size, generator=generator, dtype=F64)
    table *= torch.randint(2, size, generator=generator)
    limits = torch.iinfo(torch.int64)
    seeds = rows if draw(st.booleans()) and rows else 1
    noise = Noise(
        torch.randint(limits.min, limits.max, (seeds,), generator=generator),
        torch.randint(0, 2**48, (rows,), generator=generator),
        torch.randint(0, 2**32, (1,), generator=generator),
        draw(st.integers(0, 127)),
    )
    dtype = draw(st.sampled_from([F32, F64]))
    return x0, x1, index0, index1, table, times, noise, draw(st.booleans()), outputs, dtype


@settings(max_examples=EXAMPLES)
@given(calls())
def test_equals_the_reference(call):
    expected = reference.bridge(*call)
    got = triton.bridge(*(to_device(x) for x in call))
    for j, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert same(a, b), f"output {j}"
    times, noise = call[5:7]
    if isinstance(times, Clock):
        keys = to_device(noise)[:3]
        assert same(triton.times(*keys, to_device(times)), reference.times(*noise[:3], times))


@pytest.mark.parametrize("columns", [2, 600])
def test_an_index_out_of_range_gives_nan(columns):
    x = torch.ones(4, columns, device=DEVICE)
    index = torch.tensor([0, -1, 3, 4], device=DEVICE)
    noise = to_device(Noise(torch.tensor([0]), torch.arange(4), torch.tensor([0])))
    times = torch.full((4,), 0.5, dtype=F64, device=DEVICE)
    recipe = torch.zeros(1, 3, 5, dtype=F64, device=DEVICE)
    recipe[0, 1, 0] = 1
    _, out = triton.bridge(None, x, None, index, recipe, times, noise, False, [F32], F32)
    assert out.isnan().all(1).tolist() == [False, True, False, True]
    assert not math.isnan(out[2, -1])
