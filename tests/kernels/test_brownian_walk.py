"""Increments from one time to the next, and space-time Levy areas: backends, statelessness, law."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_brownian import CELL, INT64, SAMPLE, each_isa, same

from fastgen.kernels.brownian.area_reference import brownian_area
from fastgen.kernels.brownian.contract import BROWNIAN_DEPTH
from fastgen.kernels.brownian.reference import brownian
from fastgen.noise import BrownianPath

cpp = pytest.importorskip("fastgen.kernels.brownian.cpp")

TIME = st.one_of(
    st.floats(0, 1),
    st.integers(0, 64).map(lambda k: k / 64),
    st.integers(0, 2**BROWNIAN_DEPTH).map(lambda k: k * CELL),
    st.sampled_from([0.0, 1.0, 1 - 2**-53, 5e-324, CELL / 2, 0.5, 0.5 + CELL, 2**-12, 2**-13]),
)


def column(x):
    return torch.tensor(x, dtype=torch.float64)[:, None, None]


def expected_steps(elements, seeds, ids, tree, times, scales, depth, factor):
    w = brownian(elements, seeds, ids, tree, torch.tensor(times, dtype=torch.float64), depth)
    return (w * factor).diff(dim=0) * column(scales)


@settings(max_examples=40)
@given(
    rows=st.integers(1, 9),
    elements=st.one_of(st.integers(1, 70), st.integers(250, 300)),
    per_row=st.booleans(),
    tree=st.integers(0, 127),
    depth=st.sampled_from([1, 2, 9, 12, 13, BROWNIAN_DEPTH]),
    memory=st.sampled_from([0, 1 << 28]),
    data=st.data(),
)
def test_walks_equal_reference(rows, elements, per_row, tree, depth, memory, data):
    seeds = torch.tensor(data.draw(st.lists(INT64, min_size=rows, max_size=rows))).long()
    seeds = seeds if per_row else seeds[:1]
    ids = torch.tensor(data.draw(st.lists(SAMPLE, min_size=rows, max_size=rows))).long()
    walk = cpp.Walker(elements, seeds, ids, tree, depth, 1.75, memory)
    last = 0.0
    for _ in range(data.draw(st.integers(1, 4))):  # one walk after the other, some from its end on
        times = data.draw(st.lists(TIME, min_size=1, max_size=4))
        times = [last if data.draw(st.booleans()) else 0.25, *times]
        last = times[-1]
        scales = [1.5 + i for i in range(len(times) - 1)]
        expected = expected_steps(elements, seeds, ids, tree, times, scales, depth, 1.75)
        for name in each_isa():
            assert torch.equal(walk.increments(times, scales, torch.float64), expected), name
            assert torch.equal(walk.increments(times, scales), expected.float()), name


@settings(max_examples=25)
@given(
    rows=st.integers(1, 5),
    elements=st.one_of(st.integers(1, 20), st.integers(250, 270)),
    depth=st.sampled_from([1, 11, BROWNIAN_DEPTH]),
    times=st.lists(TIME, min_size=2, max_size=5, unique=True),
    seed=INT64,
)
def test_areas_equal_reference(rows, elements, depth, times, seed):
    seeds, ids = torch.tensor([seed]), torch.arange(rows) * 2**33
    scales = [0.5 + i for i in range(len(times) - 1)]
    areas = [2.5 + i for i in range(len(times) - 1)]
    asked = torch.tensor(times, dtype=torch.float64)
    w, integral = brownian_area(elements, seeds, ids, 5, asked, depth)
    mean = integral.diff(dim=0) / asked.diff()[:, None, None] - (w[:-1] + w[1:]) * 0.5
    expected = torch.stack([(w * 0.7).diff(dim=0) * column(scales), mean * column(areas)])
    walk = cpp.Walker(elements, seeds, ids, 5, depth, 0.7)
    for name in each_isa():
        assert same(walk.with_areas(times, scales, areas, torch.float64), expected), name


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_long_samples_and_threads(threads):
    seeds, ids = torch.tensor([-1]), torch.tensor([5, 2**40 + 1, 7])
    times, scales = [0.3, 0.30001, 0.5], [1.0, 2.0]
    expected = expected_steps(20_001, seeds, ids, 2, times, scales, 24, 1.0)
    asked = torch.tensor(times, dtype=torch.float64)
    w = brownian_area(20_001, seeds, ids, 2, asked)[0]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        walk = cpp.Walker(20_001, seeds, ids, 2)
        for _ in range(2):
            assert torch.equal(walk.increments(times, scales, torch.float64), expected)
        found = walk.with_areas(times, scales, scales, torch.float64)
        assert torch.equal(found[0], w.diff(dim=0) * column(scales))
    finally:
        torch.set_num_threads(before)


def test_paths_have_the_same_increments_everywhere(monkeypatch):
    times = torch.rand(12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3 - 1
    pairs = list(zip(times[:-1].tolist(), times[1:].tolist(), strict=True))
    for options in ({}, {"levy_area": True}, {"depth": 10}, {"dtype": torch.float64}):
        path = BrownianPath((3, 7), -1.0, 2.0, seed=[4, 5, 6], tree=2, **options)
        forwards = [path(s, t) for s, t in pairs]
        areas = [path.with_area(s, t) for s, t in pairs] if path.levy_area else []
        again = copy.deepcopy(path)
        for (s, t), w in reversed(list(zip(pairs, forwards, strict=True))):
            assert torch.equal(again(s, t), w)
            assert torch.equal(again(t, s), -w)
        monkeypatch.setenv("FASTGEN_BACKEND", "reference")
        for (s, t), w in zip(pairs, forwards, strict=True):
            assert torch.equal(path(s, t), w)
        for (s, t), (w, h) in zip(pairs if areas else [], areas, strict=True):
            assert all(map(torch.equal, path.with_area(s, t), (w, h)))
        monkeypatch.delenv("FASTGEN_BACKEND")


def test_depths_share_the_ends_of_the_larger_cells():
    shallow, deep = (BrownianPath((2, 5), depth=d, dtype=torch.float64) for d in (6, 24))
    ends = torch.arange(65, dtype=torch.float64) / 64
    assert torch.equal(shallow.at(ends), deep.at(ends))
    inside = (ends[:-1] + ends[1:]) / 2  # where the bridge is one more bisection
    torch.testing.assert_close(shallow.at(inside), deep.at(inside), rtol=0, atol=1e-15)
    assert (shallow.at([0.3]) != deep.at([0.3])).all()


def test_law_of_shallow_paths():
    # Exact at any times of which no two are inside of one cell, however few levels there are.
    times = torch.linspace(0, 1, 14, dtype=torch.float64)[1:]
    w = BrownianPath((40, 2500), depth=4, seed=3).at(times).flatten(1)
    z = torch.cat([w[:1], w.diff(dim=0)]) * math.sqrt(13)
    n = z.shape[1]
    assert (z @ z.T / n - torch.eye(13)).abs().max() < 5 * math.sqrt(2 / n)


@pytest.mark.parametrize("depth", [4, 24])
def test_law_of_areas(depth):
    """W and its integral have the motion's covariances at any times."""
    t = torch.tensor([0.1, 0.3, 0.5, 0.71, 1.0], dtype=torch.float64)
    w, integral = brownian_area(20_000, torch.tensor([1]), torch.arange(4), 0, t, depth).flatten(2)
    x, n = torch.cat([w, integral]), w.shape[1]
    low, high = torch.minimum(t[:, None], t), torch.maximum(t[:, None], t)
    a, b = t[:, None], t[None]
    cross = torch.where(b <= a, b**2 / 2, a * b - a**2 / 2)  # of W(a) and the integral up to b
    both = low**2 * (3 * high - low) / 6
    expected = torch.cat([torch.cat([low, cross], 1), torch.cat([cross.T, both], 1)])
    deviation = expected.diag().sqrt()
    error = (x @ x.T / n - expected) / (deviation[:, None] * deviation)
    assert error.abs().max() < 5 * math.sqrt(2 / n)


def test_areas_of_steps_are_independent_and_add_up():
    path = BrownianPath((8, 4000), -2.0, 2.0, seed=9, levy_area=True, dtype=torch.float64)
    s, u, t = -0.7, 0.1, 0.45
    (w0, h0), (w1, h1), (w, h) = (path.with_area(*ends) for ends in ((s, u), (u, t), (s, t)))
    torch.testing.assert_close(w, w0 + w1, rtol=0, atol=1e-14)
    # Over two neighbouring intervals (Foster, Lyons and Oberhauser 2020).
    joined = ((u - s) * (h0 - w1 / 2) + (t - u) * (h1 + w0 / 2)) / (t - s)
    torch.testing.assert_close(h, joined, rtol=0, atol=1e-13)
    z = torch.stack(
        [
            w0 / math.sqrt(u - s),
            h0 * math.sqrt(12 / (u - s)),
            w1 / math.sqrt(t - u),
            h1 * math.sqrt(12 / (t - u)),
        ]
    ).flatten(1)
    n = z.shape[1]
    assert (z @ z.T / n - torch.eye(4)).abs().max() < 5 * math.sqrt(2 / n)
    assert ((z**4).mean(1) - 3).abs().max() < 5 * math.sqrt(96 / n)
    assert torch.equal(path.with_area(u, s)[1], h0)  # the same from both ends


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BrownianPath((2, 3), depth=0), "depth=0: expected 1 <= depth <= 24"),
        (lambda: BrownianPath((2, 3), depth=25), "depth=25: expected"),
        (lambda: BrownianPath((2, 3), tree=128), "tree=128: expected"),
        (lambda: BrownianPath((2, 3)).with_area(0.0, 0.5), "levy_area=False"),
        (lambda: BrownianPath((2, 3), levy_area=True).with_area(0.5, 0.5), "no length"),
        (lambda: BrownianPath((2, 3))(0.5, 1.5), r"times: expected times in \[0.0, 1.0\]"),
        (lambda: BrownianPath((2, 3))(0.5, math.nan), "times: expected times"),
    ],
)
def test_malformed_paths_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("bad", [float("nan"), 2.0, -0.1])
@pytest.mark.parametrize("first", [True, False])
def test_a_refused_call_leaves_no_trace(bad, first):
    cpp = pytest.importorskip("fastgen.kernels.brownian.cpp", reason="the C++ kernels")
    seeds, ids = torch.tensor([1]), torch.arange(2)
    walker, fresh = (cpp.Walker(64, seeds, ids, 0) for _ in range(2))
    if not first:
        walker.increments([0.0, 0.3, 0.6, 0.9], [1.0] * 3)
    with pytest.raises(ValueError, match=r"times: expected times in \[0, 1\]"):
        walker.increments([0.9, 0.51, bad], [1.0] * 2)
    times = [0.0, 0.51, 0.6, 0.9]
    assert torch.equal(walker.increments(times, [1.0] * 3), fresh.increments(times, [1.0] * 3))
    w = brownian(64, seeds, ids, 0, torch.tensor(times, dtype=torch.float64))
    assert torch.equal(walker.increments(times, [1.0] * 3), w.diff(dim=0).float())


@pytest.mark.parametrize("at_once", [1, 37, 80, 185, 400])
def test_a_long_call_is_several_and_its_result_the_same(at_once, monkeypatch):
    """Between them a Ctrl-C is answered."""
    times = torch.linspace(0, 1, 9, dtype=torch.float64)

    def results():
        for seed in (3, list(range(5))):
            path = BrownianPath((5, 37), seed=seed)
            yield path.at(times)
            yield path.at(times[:, None] * torch.linspace(0.5, 1, 5, dtype=torch.float64))
            yield path.steps(times, torch.linspace(1, 2, 8, dtype=torch.float64))
            areas = BrownianPath((5, 37), seed=seed, levy_area=True)
            yield from areas.steps_with_area(times, *torch.ones(2, 8, dtype=torch.float64))

    expected = list(results())
    monkeypatch.setattr(cpp, "AT_ONCE", at_once)
    for found, whole in zip(results(), expected, strict=True):
        assert torch.equal(found, whole)
