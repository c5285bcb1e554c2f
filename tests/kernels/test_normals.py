"""The noise contract: published vectors, equality of the backends, statistics."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastgen.kernels.normals import reference

cpp = pytest.importorskip("fastgen.kernels.normals.cpp")
_C = pytest.importorskip("fastgen._C")

# Random123 1.14, tests/kat_vectors, philox 4x32 10: counter, key, result.
KNOWN_ANSWERS = [
    (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
INT64 = st.integers(-(2**63), 2**63 - 1)
SAMPLE = st.one_of(st.integers(0, 100), st.integers(2**32 - 5, 2**48 - 1))


@pytest.fixture(params=_C.supported_isas())
def isa(request):
    before = _C.isa()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(before)


def each_isa():
    before = _C.isa()
    try:
        for name in _C.supported_isas():
            _C.set_isa(name)
            yield name
    finally:
        _C.set_isa(before)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_known_answers_reference(counter, key, words):
    tensors = [torch.tensor(word) for word in (*counter, *key)]
    result = reference.philox(tuple(tensors[:4]), tuple(tensors[4:]))
    assert tuple(word.item() for word in result) == words


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_known_answers_cpp(counter, key, words, isa):
    assert tuple(_C.philox(counter, key)) == words


def test_normals_agree_with_float64_box_muller():
    words = torch.randint(0, 2**32, (2, 200_000), generator=torch.Generator().manual_seed(1))
    edges = torch.tensor([0, 1, 2**31, 3037000499, 3037000500, 2**32 - 2, 2**32 - 1])
    r, a = torch.cat([words, edges.expand(2, -1)], dim=1)
    z = reference.normals_from_words((r, a, r, a))[:, :2].double()
    r, a = r.double(), a.double()
    exact = torch.where(r > 2**31, torch.log1p((r + 0.5) / 2**32 - 1), ((r + 0.5) / 2**32).log())
    radius, angle = (-2 * exact).sqrt(), 2 * math.pi * a / 2**32
    expected = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    assert ((z - expected).abs() <= 4e-7 * radius[:, None]).all()


@given(
    rows=st.integers(0, 9),
    elements=st.one_of(st.integers(0, 70), st.integers(500, 1100)),
    per_row=st.booleans(),
    draw=st.one_of(st.integers(0, 3), st.integers(2**32 - 3, 2**32 - 1)),
    stream=st.integers(0, 255),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    data=st.data(),
)
def test_cpp_equals_reference(rows, elements, per_row, draw, stream, dtype, data):
    seeds = torch.tensor(data.draw(st.lists(INT64, min_size=rows, max_size=rows)))
    seeds = seeds.long() if per_row and rows else torch.tensor([data.draw(INT64)])
    ids = torch.tensor(data.draw(st.lists(SAMPLE, min_size=rows, max_size=rows))).long()
    expected = reference.normals(elements, seeds, ids, draw, stream).to(dtype)
    for name in each_isa():
        result = cpp.normals(elements, seeds, ids, torch.tensor(draw), stream, dtype=dtype)
        assert result.dtype == dtype
        assert torch.equal(result, expected), name


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_long_samples_and_threads(isa, threads):
    ids, seeds = torch.tensor([5, 2**40 + 1, 7]), torch.tensor([-1])
    expected = reference.normals(50_001, seeds, ids, 9, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(cpp.normals(50_001, seeds, ids, 9, 1), expected)
    finally:
        torch.set_num_threads(before)


def test_sample_is_independent_of_its_batch(isa):
    ids, seeds = torch.arange(37), torch.arange(37) * 11
    batch = cpp.normals(23, seeds, ids, 4, 2)
    for i in (0, 17, 36):
        alone = cpp.normals(23, seeds[i : i + 1], ids[i : i + 1], 4, 2)
        assert torch.equal(alone[0], batch[i])
    assert torch.equal(cpp.normals(9, seeds, ids, 4, 2), batch[:, :9])


@pytest.mark.parametrize("change", ["seed", "high half of the seed", "sample", "draw", "stream"])
def test_every_part_of_the_key_matters(change, isa):
    def draw(seed=3, sample=5, number=7, stream=1):
        return cpp.normals(64, torch.tensor([seed]), torch.tensor([sample]), number, stream)

    changed = {
        "seed": draw(seed=4),
        "high half of the seed": draw(seed=3 + 2**40),
        "sample": draw(sample=5 + 2**33),
        "draw": draw(number=8),
        "stream": draw(stream=2),
    }[change]
    assert (draw() != changed).all()


@pytest.mark.slow
def test_moments_tails_and_independence():
    n = 10_000_000
    ids = torch.arange(10)
    z = cpp.normals(n // 10, torch.tensor([2024]), ids, 0, 0).double().flatten()
    # Standard errors of the sample moments of n standard normals; 5 of them are allowed.
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((z**power).mean() - moment) < 5 * math.sqrt(variance / n)
    for bound in (1, 2, 3, 4, 5):
        p = math.erfc(bound / math.sqrt(2))
        assert abs((z.abs() > bound).double().mean() - p) < 5 * math.sqrt(p / n)
    assert 4.9 < z.abs().max() < 6.8
    for lag in (1, 2, 3, 4, 5, 64, 1_000_000):  # within blocks, between them, between samples
        assert abs((z[lag:] * z[:-lag]).mean()) < 5 / math.sqrt(n - lag)
        assert abs((z[lag:] ** 2 * z[:-lag] ** 2).mean() - 1) < 5 * math.sqrt(8 / (n - lag))
    other = cpp.normals(n // 10, torch.tensor([2024]), ids, 1, 0).double().flatten()
    assert abs((z * other).mean()) < 5 / math.sqrt(n)
    cells = (0.5 * (1 + torch.erf(z / math.sqrt(2))) * 1000).long().clamp(0, 999)
    counts = torch.bincount(cells, minlength=1000).double()
    chi_squared = ((counts - n / 1000) ** 2 / (n / 1000)).sum()
    assert abs(chi_squared - 999) < 5 * math.sqrt(2 * 999)
