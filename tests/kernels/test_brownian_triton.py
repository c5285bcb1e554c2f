"""Triton's Brownian tree equals the reference bit for bit: interpreted, or on a real device."""

import math

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fastgen.kernels.brownian.area_reference import brownian_area
from fastgen.kernels.brownian.reference import brownian
from tests.support.triton_device import MARKS, ON_CPU, defining_kernels, same, to_device

pytest.importorskip("triton")
with defining_kernels():
    from fastgen.kernels.brownian import triton

pytestmark = MARKS
INT64 = st.integers(-(2**63), 2**63 - 1)
TIME = st.floats(0, 1) | st.integers(0, 2**24).map(lambda k: k * 2.0**-24)
SAMPLE = st.one_of(st.integers(0, 100), st.integers(2**32 - 5, 2**48 - 1))


@settings(max_examples=4 if ON_CPU else 100, phases=[Phase.generate])
@given(
    rows=st.integers(0, 3),
    elements=st.integers(0, 9) | st.just(512),
    per_row=st.booleans(),
    own_times=st.booleans(),
    tree=st.integers(0, 127),
    data=st.data(),
)
def test_brownian_equals_reference(rows, elements, per_row, own_times, tree, data):
    if elements == 512:  # a program for each row and time takes the interpreter 0.2 s
        rows = min(rows, 1)
    seeds = torch.tensor(data.draw(st.lists(INT64, min_size=rows, max_size=rows))).long()
    seeds = seeds if per_row and rows else torch.tensor([data.draw(INT64)])
    ids = torch.tensor(data.draw(st.lists(SAMPLE, min_size=rows, max_size=rows))).long()
    count = data.draw(st.integers(1, 2))
    size = count * rows if own_times else count
    times = torch.tensor(data.draw(st.lists(TIME, min_size=size, max_size=size))).double()
    times = times.reshape(count, rows) if own_times else times
    expected = brownian(elements, seeds, ids, tree, times)
    w = triton.brownian(elements, *map(to_device, (seeds, ids)), tree, to_device(times))
    assert same(w, expected)


def test_brownian_at_special_times():
    times = torch.tensor([0.0, 1.0, 1 - 2**-53, 2**-25, math.nan, -1e-300]).double()
    seeds, ids = torch.tensor([-3]), torch.tensor([2**40 + 1, 7])
    expected = brownian(5, seeds, ids, 1, times)
    assert same(triton.brownian(5, *map(to_device, (seeds, ids)), 1, to_device(times)), expected)


@pytest.mark.parametrize(("depth", "own"), [(24, False), (7, True)])
def test_brownian_areas_and_depths_equal_reference(depth, own):
    times = torch.tensor([0.3] if depth == 24 else [math.nan, 1.0, 0.7])
    times = times.double()[:, None].expand(-1, 2) if own else times.double()
    seeds, ids = torch.tensor([-3, 9])[: 1 + own], torch.tensor([2**40 + 1, 7])[: 1 + own]
    keys = to_device(seeds), to_device(ids), 1, to_device(times), depth
    expected = brownian_area(5, seeds, ids, 1, times, depth)
    assert same(triton.brownian_area(5, *keys), expected)
    assert same(triton.brownian(5, *keys), brownian(5, seeds, ids, 1, times, depth))
