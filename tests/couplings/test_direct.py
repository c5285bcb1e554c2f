"""Assignment on costs as they are given: small problems, ties, forbidden pairs."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from fastgen import _C
from fastgen.couplings import Assignment, assign
from fastgen.kernels.assignment.cpp import solve_given


def boxes(g, n):
    corner = g.random((n, 2)) * 300
    return np.concatenate([corner, corner + g.uniform(20, 80, (n, 2))], 1)


def distance_of_boxes(a, b):
    """1 - intersection over union."""
    low, high = (
        np.maximum(a[:, None, :2], b[None, :, :2]),
        np.minimum(a[:, None, 2:], b[None, :, 2:]),
    )
    common = np.clip(high - low, 0, None).prod(-1)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(1) for x in (a, b))
    return 1 - common / (area_a[:, None] + area_b - common)


def squares(x, y):
    return ((x[:, None] - y[None]) ** 2).sum(2)


KINDS = {
    "integers to 3": lambda g, n, m: g.integers(1, 4, (n, m)),
    "integers to 10": lambda g, n, m: g.integers(1, 11, (n, m)),
    "integers to 100": lambda g, n, m: g.integers(-50, 51, (n, m)),
    "boxes": lambda g, n, m: distance_of_boxes(boxes(g, n), boxes(g, m)),
    "uniform": lambda g, n, m: g.random((n, m)),
    "Machol-Wien": lambda g, n, m: np.outer(np.arange(1, n + 1), np.arange(1, m + 1)),
    "plane": lambda g, n, m: squares(g.normal(size=(n, 2)), g.normal(size=(m, 2))),
    "heavy tails": lambda g, n, m: squares(g.standard_cauchy((n, 3)), g.standard_cauchy((m, 3))),
    "clusters": lambda g, n, m: squares(
        10 * g.integers(0, 3, (n, 1)) + g.normal(size=(n, 4)),
        10 * g.integers(0, 3, (m, 1)) + g.normal(size=(m, 4)),
    ),
    "equal": lambda g, n, m: np.full((n, m), 2.5),
    "copies": lambda g, n, m: g.random((n, 3))[:, g.integers(0, 3, m)],
}


def costs_of(kind, n, m, seed, dtype, forbidden=0.0):
    """A tensor; with forbidden pairs there still is a pairing."""
    g = np.random.default_rng(seed)
    costs = torch.tensor(np.asarray(KINDS[kind](g, n, m), float), dtype=dtype)
    if forbidden:
        banned = g.random((n, m)) < forbidden
        least = min(n, m)
        banned[g.permutation(n)[:least], g.permutation(m)[:least]] = False
        costs[torch.from_numpy(banned)] = torch.inf
    return costs


def check(costs, **options):
    """The cost is scipy's, the gap bounds what is left, and duals prove it."""
    found = assign(cost=costs, **options)
    exact = costs.double()
    rows, columns = linear_sum_assignment(exact.numpy())
    least = exact[rows, columns].sum().item()
    i, j = found.indices()
    assert len(i) == min(costs.shape) == len(set(j.tolist()))
    cost = exact[i, j].sum().item()
    size = exact[i, j].abs().sum().item()
    assert abs(found.cost - cost) <= 1e-12 * size
    assert cost - least <= found.gap + 1e-12 * size
    tolerance = 1.01e-6 if costs.dtype == torch.float32 else 1.01e-8
    assert 0 <= found.gap <= tolerance * size + 1e-14 * exact[exact.isfinite()].abs().max().item()
    if found.duals is not None:
        u, v = found.duals
        assert (exact - u[:, None] - v[None]).min() >= -1e-12 * max(1.0, size)
    return found


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(list(KINDS)),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 2**31),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([0.0, 0.3, 0.9]),
)
def test_kinds_of_costs(kind, n, m, seed, dtype, forbidden):
    costs = costs_of(kind, n, m, seed, dtype, forbidden)
    found = check(costs)
    also = check(costs, return_duals=True)
    if n <= m:  # with more rows than columns the problem is turned round, and ties with it
        assert torch.equal(found.permutation, also.permutation)
    assert found.cost == also.cost


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [129, 300, 520])
def test_larger(kind, n):
    check(costs_of(kind, n, n, n, torch.float32))
    check(costs_of(kind, n, n, n, torch.float64, forbidden=0.8))
    check(costs_of(kind, n - 40, n, n, torch.float32))


@pytest.mark.parametrize("kind", ["uniform", "clusters", "integers to 100", "boxes"])
def test_large(kind):
    check(costs_of(kind, 1100, 1100, 3, torch.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_the_single_problems(kind):
    costs = torch.stack([costs_of(kind, 30, 30, seed, torch.float32) for seed in range(9)])
    found = assign(cost=costs, batched=True)
    for k, one in enumerate(costs):
        alone = check(one)
        assert torch.equal(found.permutation[k], alone.permutation)
        assert found.cost[k].item() == alone.cost
        assert found.gap[k].item() == alone.gap


@pytest.mark.parametrize("isa", _C.supported_isas())
@pytest.mark.parametrize("n", [1, 3, 31, 64, 67, 300])
def test_instruction_sets_agree(isa, n):
    before = _C.isa()
    problems = [costs_of(kind, n, n, 5, torch.float32) for kind in KINDS]
    expected = [assign(cost=costs) for costs in problems]
    try:
        _C.set_isa(isa)
        for costs, other in zip(problems, expected, strict=True):
            found = assign(cost=costs)
            assert torch.equal(found.permutation, other.permutation)
            assert (found.cost, found.gap) == (other.cost, other.gap)
    finally:
        _C.set_isa(before)


def test_small_without_set_up():
    costs = costs_of("uniform", 8, 8, 0, torch.float32)
    found = solve_given(costs, Assignment)
    prepared = assign(cost=costs, threads=1)
    assert type(found) is Assignment
    assert torch.equal(found.permutation, prepared.permutation)
    assert (found.cost, found.gap, found.duals) == (prepared.cost, prepared.gap, None)
    assert found == Assignment(found.permutation, found.cost, found.gap)
    # Anything else is for `solve`.
    others = [costs.T, costs[:, :5], costs[0], costs[:0], costs.half(), costs.int()]
    others += [torch.zeros(2, 2**20), torch.full((2, 2), math.nan), torch.full((2, 2), math.inf)]
    assert all(solve_given(other, Assignment) is None for other in others)
    for view in (costs.T, costs[:, ::2], costs.half(), (8 * costs).int()):
        check(view)


def test_the_pairing_of_a_small_problem_is_a_tensor_like_others():
    permutation = assign(cost=costs_of("uniform", 5, 7, 0, torch.float32)).permutation
    assert (permutation.dtype, permutation.is_contiguous()) == (torch.int64, True)
    copy = permutation.clone()
    kept = [permutation.view(1, 5)[0, 1:], pickle.loads(pickle.dumps(permutation))]
    del permutation
    torch.empty(10**6)
    assert torch.equal(kept[0], copy[1:])
    assert torch.equal(kept[1], copy)
    assert torch.equal(torch.eye(7)[copy].argmax(1), copy)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(49, 140),
    st.integers(0, 30),
    st.integers(1, 40),
    st.integers(0, 2**31),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([0.0, 0.5, 0.95]),
)
def test_ties(n, wider, largest, seed, dtype, forbidden):
    """Rows that ties have left are assigned along pairs that are as good, and from all at once."""
    g = np.random.default_rng(seed)
    costs = torch.tensor(g.integers(0, largest + 1, (n, n + wider)), dtype=dtype)
    if forbidden:
        banned = torch.from_numpy(g.random(costs.shape) < forbidden)
        banned[torch.arange(n), torch.from_numpy(g.permutation(n + wider)[:n])] = False
        costs[banned] = torch.inf
    check(costs)
    check(costs, return_duals=True)


def test_small_is_seen_by_transforms():
    costs = torch.rand(4, 4)
    with pytest.raises(ValueError, match="cost: assign under"):
        torch.func.grad(lambda c: assign(cost=c).cost * c.sum())(costs)


@pytest.mark.parametrize("n", [3, 40, 400])
def test_infeasible_and_not_a_number(n):
    costs = costs_of("uniform", n, n, 1, torch.float32, forbidden=0.5)
    blocked = costs.clone()
    blocked[:2] = torch.inf
    blocked[:2, 0] = 1.0
    with pytest.raises(ValueError, match="cost matrix is infeasible"):
        assign(cost=blocked)
    blocked[:, 1] = torch.inf
    with pytest.raises(ValueError, match="cost matrix is infeasible"):
        assign(cost=blocked)
    for bad in (math.nan, -math.inf):
        costs[n - 1, n - 2] = bad
        with pytest.raises(ValueError, match="cost: expected finite"):
            assign(cost=costs)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_any_range(scale):
    costs = costs_of("uniform", 20, 20, 2, torch.float64)
    found, least = assign(cost=costs * scale), assign(cost=costs)
    assert torch.equal(found.permutation, least.permutation)
    assert found.cost == pytest.approx(least.cost * scale)


def test_rounding_is_part_of_the_gap():
    costs = costs_of("uniform", 50, 50, 4, torch.float64) + 1e12
    found = check(costs)
    assert 2**-54 * found.cost <= found.gap <= 2**-50 * found.cost


def test_few_rows_in_any_mode():
    costs = costs_of("uniform", 20, 20, 6, torch.float32)
    least = assign(cost=costs, return_duals=True)
    for options in ({"mode": "eps"}, {"warm_start": least}, {"threads": 2}):
        found = assign(cost=costs, **options)
        assert found.cost == pytest.approx(least.cost)
