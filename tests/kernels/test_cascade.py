"""`cascade` in C++ and Triton equals the reference, and the reference its definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgen.kernels import Noise, combine, dispatch
from fastgen.kernels.cascade.contract import Sums
from fastgen.kernels.cascade.reference import Cascade
from tests.support.triton_device import DEVICE, MARKS, ON_CPU, defining_kernels

pytest.importorskip("triton")
with defining_kernels():
    from fastgen.kernels.cascade import triton

CPU = torch.device("cpu")


def drawn(rows, batch, elements, lines, draws, by_row, clip, seed, dtype):
    """A workspace with infinities, coefficients with zeros, and sums that read what they write."""
    generator = torch.Generator().manual_seed(seed)
    work = torch.randn(rows, batch, elements, generator=generator, dtype=torch.float64).to(dtype)
    if batch:
        work[0, 0, 0] = torch.inf
    counts = torch.randint(0, 6, (lines,), generator=generator)
    ends = counts.cumsum(0)
    terms = int(counts.sum())
    sources = torch.randint(-draws, rows, (terms,), generator=generator)
    coefficients = torch.randn(
        batch if by_row else 1, terms, generator=generator, dtype=torch.float64
    )
    coefficients *= torch.rand(coefficients.shape, generator=generator) < 0.8
    targets = torch.randint(0, rows, (lines,), generator=generator)
    clipped = torch.randint(0, 1 + clip, (lines,), generator=generator)
    table = torch.stack([targets, ends - counts, ends, clipped], 1)
    noise = None
    if draws:
        seeds = torch.randint(-(2**62), 2**62, (batch if by_row and batch else 1,))
        noise = Noise(seeds, torch.arange(batch) + 2**40, torch.randint(0, 2**32, (draws,)))
    return work, coefficients, Sums(table, sources), (-0.4, 0.7) if clip else None, noise


CASES = {
    "rows": st.integers(1, 6),
    "batch": st.integers(0, 5),
    "elements": st.one_of(st.integers(1, 20), st.sampled_from([64, 130, 1031])),
    "lines": st.integers(0, 6),
    "draws": st.integers(0, 3),
    "by_row": st.booleans(),
    "clip": st.booleans(),
    "seed": st.integers(0, 1000),
    "dtype": st.sampled_from([torch.float32, torch.float64]),
}


def same(found, expected):
    return torch.equal(found.nan_to_num(7.25), expected.nan_to_num(7.25))


@settings(max_examples=150)
@given(first=st.floats(0, 1), last=st.floats(0, 1), **CASES)
def test_cpp(first, last, **case):
    work, *rest = drawn(**case)
    first, last = sorted(round(x * case["lines"]) for x in (first, last))
    expected, found = work.clone(), work.clone()
    Cascade(expected, *rest)(first, last)
    dispatch.find("bind_cascade", CPU, "cpp")(found, *rest)(first, last)
    assert same(found, expected)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_instruction_sets(isa):
    _C = pytest.importorskip("fastgen._C")
    if isa not in _C.supported_isas():
        pytest.skip("not on this processor")
    case = {"rows": 5, "batch": 3, "elements": 1031, "lines": 8, "draws": 2, "by_row": True}
    work, *rest = drawn(**case, clip=True, seed=5, dtype=torch.float32)
    expected, found, before = work.clone(), work.clone(), _C.isa()
    Cascade(expected, *rest)(0, 8)
    try:
        _C.set_isa(isa)
        dispatch.find("bind_cascade", CPU, "cpp")(found, *rest)(0, 8)
    finally:
        _C.set_isa(before)
    assert same(found, expected)


def triton_cases(f):
    for mark in MARKS:
        f = mark(f)
    return settings(max_examples=10 if ON_CPU else 200)(given(**CASES)(f))


@triton_cases
def test_triton(**case):
    work, coefficients, sums, clip, noise = drawn(**case)
    expected, found = work.clone(), work.to(DEVICE)
    Cascade(expected, coefficients, sums, clip, noise)(0, case["lines"])
    if noise is not None:
        noise = Noise(*(x.to(DEVICE) for x in noise[:3]), noise.stream)
    triton.Cascade(found, coefficients.to(DEVICE), sums, clip, noise)(0, case["lines"])
    assert same(found.cpu(), expected)


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_a_sum_is_a_stage(backend):
    """Two stages in a row, noise and clipping included, are two calls of `combine`."""
    x, raw = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(0)).unbind()
    noise = Noise(torch.tensor([3]), torch.arange(3), torch.tensor([8]))
    table = torch.tensor([[[0.3, 0.7, 0.0, 0.0], [0.2, -0.1, 0.9, 0.4]]], dtype=torch.float64)
    bounds = (-0.5, 0.5)
    (y,) = combine([x, raw], table, clip=bounds, noise=noise)
    (z,) = combine([x, y], torch.tensor([[[1.5, -0.7]]], dtype=torch.float64))
    work = torch.stack([x, raw, torch.full_like(x, torch.nan), torch.full_like(x, torch.nan)])
    sums = Sums(
        torch.tensor([[2, 0, 2, 1], [1, 2, 6, 0], [3, 6, 8, 0]]),
        torch.tensor([0, 1, 0, 1, 2, -1, 0, 1]),
    )
    coefficients = torch.tensor([[0.3, 0.7, 0.2, -0.1, 0.9, 0.4, 1.5, -0.7]], dtype=torch.float64)
    dispatch.find("bind_cascade", CPU, backend)(work, coefficients, sums, bounds, noise)(0, 3)
    assert torch.equal(work[1], y)
    assert torch.equal(work[3], z)


LINES, SOURCES = torch.tensor([[0, 0, 1, 0]]), torch.tensor([1])
FACTORS = torch.ones(1, 1, dtype=torch.float64)
WORK = torch.zeros(2, 3, 4)
NOISE = Noise(torch.zeros(1, dtype=torch.int64), torch.arange(3), torch.arange(2))
WRONG = {
    "work": ((WORK[0, 0], FACTORS, Sums(LINES, SOURCES)), "work: expected float32"),
    "strides": ((WORK.mT, FACTORS, Sums(LINES, SOURCES)), "work: expected a contiguous"),
    "coefficients": ((WORK, FACTORS.float(), Sums(LINES, SOURCES)), "coefficients: expected"),
    "terms": ((WORK, FACTORS.expand(1, 2).clone(), Sums(LINES, SOURCES)), "coefficients: expected"),
    "lines": ((WORK, FACTORS, Sums(LINES.float(), SOURCES)), "sums.lines: expected int64"),
    "sources": ((WORK, FACTORS, Sums(LINES, SOURCES[None])), "sums.sources: expected int64"),
    "row": ((WORK, FACTORS, Sums(LINES, SOURCES + 1)), "sums.sources: expected numbers"),
    "no draw": ((WORK, FACTORS, Sums(LINES, SOURCES - 2)), "sums.sources: expected numbers"),
    "draw": ((WORK, FACTORS, Sums(LINES, SOURCES - 4), None, NOISE), "sums.sources: expected"),
    "target": ((WORK, FACTORS, Sums(LINES + 2, SOURCES)), "sums.lines: expected numbers"),
    "clipped": ((WORK, FACTORS, Sums(LINES + torch.tensor([0, 0, 0, 1]), SOURCES)), "sums.lines"),
    "order": ((WORK, FACTORS, Sums(torch.tensor([[0, 1, 0, 0]]), SOURCES)), "end before"),
    "clip": ((WORK, FACTORS, Sums(LINES, SOURCES), (1.0, 0.0)), "low <= high"),
}


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("wrong", sorted(WRONG))
def test_refusals(wrong, backend):
    call, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        dispatch.find("bind_cascade", CPU, backend)(*call)


@pytest.mark.parametrize("part", [(-1, 0), (0, 2), (1, 0)], ids=str)
@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_parts(part, backend):
    call = dispatch.find("bind_cascade", CPU, backend)(WORK.clone(), FACTORS, Sums(LINES, SOURCES))
    with pytest.raises(ValueError, match="expected 0 <= first <= last <= 1"):
        call(*part)
