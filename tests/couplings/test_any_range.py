"""Assignments of costs of any size: the least cost, exactly, and gaps that are true."""

import math
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from fastgen.couplings import assign

D = torch.float64
KINDS = ("plain", "blocked", "powers", "whole", "forbidden", "largest", "copies", "tiny", "offsets")


def problem(kind, n, m, g):
    costs = g.random((n, m))
    if kind == "blocked":
        costs[g.random((n, m)) < 0.6] = 10.0 ** g.integers(3, 300)
    if kind == "powers":
        costs *= 10.0 ** g.integers(-300, 300, (n, m)).astype(float)
    if kind == "whole":
        costs = g.integers(0, 5, (n, m)).astype(float)
    if kind == "forbidden":
        costs[g.random((n, m)) < 0.3] = np.inf
    if kind == "largest":
        costs = g.uniform(-1, 1, (n, m)) * 1.7e308
    if kind == "copies":
        costs = np.round(costs * 100) * 10.0 ** g.integers(0, 20)
        costs[:, : m // 2 + 1] = costs[:, :1]
    if kind == "tiny":
        costs *= 1e-310
    if kind == "offsets":
        costs = (costs - 0.5) * 10.0 ** g.integers(0, 40, (n, 1)).astype(float)
        costs[:, g.integers(m)] -= 1e17
    return torch.from_numpy(costs)


def exact(costs, i, j):
    return sum(Fraction(costs[a, b].item()) for a, b in zip(i, j, strict=True))


def check(costs, **options):
    """The sum is scipy's or less, in fractions, and the gap holds for it and for the cost."""
    i, j = linear_sum_assignment(costs.double().numpy())
    best = exact(costs, i, j)
    found = assign(cost=costs, return_duals=True, **options)
    mine = exact(costs, *(k.tolist() for k in found.indices()))
    assert mine <= best + Fraction(abs(best), 10**14)
    if not math.isfinite(found.cost):  # the sum does not fit in float64
        assert found.gap == math.inf
        return found
    assert mine - best <= Fraction(found.gap)
    assert abs(mine - Fraction(found.cost)) <= Fraction(found.gap)
    assert found.gap <= 1e-6 * abs(found.cost) + 1e-14 * costs[costs.isfinite()].abs().max()
    return found


@given(st.sampled_from(KINDS), st.integers(1, 25), st.integers(1, 25), st.integers(0, 2**32 - 1))
def test_costs_of_every_kind(kind, n, m, seed):
    costs = problem(kind, n, m, np.random.default_rng(seed))
    try:
        linear_sum_assignment(costs.numpy())
    except ValueError:
        with pytest.raises(ValueError, match="infeasible"):
            assign(cost=costs)
        return
    check(costs)
    if kind not in ("largest", "powers", "tiny") and costs[costs.isfinite()].abs().max() < 1e37:
        check(costs.float())


@given(st.sampled_from(KINDS), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_reference(kind, n, m, seed):
    costs = problem(kind, n, m, np.random.default_rng(seed))
    try:
        linear_sum_assignment(costs.numpy())
    except ValueError:
        with pytest.raises(ValueError, match="infeasible"):
            assign(cost=costs, backend="reference")
        return
    check(costs, backend="reference")


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_least_of_all_permutations(n, seed):
    g = np.random.default_rng(seed)
    costs = torch.from_numpy(g.integers(-3, 4, (n, n)) * 10.0 ** g.integers(-5, 30, (n, n)))
    least = min(exact(costs, range(n), p) for p in permutations(range(n)))
    found = assign(cost=costs)
    assert exact(costs, range(n), found.permutation.tolist()) == least
    assert Fraction(found.cost) - Fraction(found.gap) <= least


@pytest.mark.parametrize("where", ["both", "first", "second"])
@pytest.mark.parametrize("d", [2, 16])
@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("far", [1e3, 3e6, 1e8, 1e9, 1e15])
def test_a_point_far_away(far, dtype, d, where):
    """The others' pairs are the best ones: a sentinel of missing values spoilt them."""
    g = torch.Generator().manual_seed(0)
    x0, x1 = torch.zeros(2, 150, d, dtype=D)
    x0[:, :2], x1[:, :2] = torch.randn(2, 150, 2, generator=g, dtype=D)
    if where != "second":
        x0[7] = far
    if where != "first":
        x1[11] = far
    x0, x1 = x0.to(dtype), x1.to(dtype)
    costs = (x0.double()[:, None] - x1.double()[None]).square().sum(2)
    rows = np.arange(150)
    found = assign(x0, x1, return_duals=True)
    for pairing, accuracy in ((found, 1e-5), (assign(cost=costs), 1e-12)):
        mine = costs[rows, pairing.permutation]
        near = rows[mine < far]
        assert len(near) >= 149
        rest = costs[near][:, pairing.permutation[near]]
        least = rest[linear_sum_assignment(rest.numpy())].sum().item()
        assert mine[near].sum().item() == pytest.approx(least, rel=accuracy)
        assert abs(pairing.cost - mine.sum().item()) <= pairing.gap + 1e-15 * pairing.cost
        if where == "both":
            assert len(near) == 150
            assert pairing.gap <= 1e-5 * least
    u, v = found.duals
    largest = max(u.abs().max().item(), v.abs().max().item(), 1)
    assert (u[:, None] + v[None] - costs).max() <= 1e-6 * largest


@pytest.mark.parametrize("n", [300, 1500])
@pytest.mark.parametrize("big", [1e12, 1e200])
def test_blocked_pairs_of_larger_problems(n, big):
    g = np.random.default_rng(n)
    costs = g.random((n, n))
    costs[g.random((n, n)) < 0.9] = big
    costs[np.arange(n), g.permutation(n)] = g.random(n)
    check(torch.from_numpy(costs))
    costs[costs == big] = np.inf
    check(torch.from_numpy(costs))


def test_known_cases():
    """Of scipy's and lap's bug reports."""
    costs = torch.tensor(
        [
            [2.50275352e02, 3.74653218e02, 2.41352736e03, 1e32, 1.51751540e-03],
            [2.13082030e02, 3.28812836e02, 2.29487946e03, 1e32, 1.37109800e-01],
            [1.97333083e02, 3.09175848e02, 2.24250550e03, 1e32, 2.46506283e00],
            [1e32, 1e32, 1e32, 5.26223432, 2.5e31],
            [3.84690152e01, 8.09465684e01, 3.33064175e02, 2.5e31, 0.0],
        ],
        dtype=D,
    )
    for big in (1e3, 1e9, 1e32, 1e300):
        check(costs.where(costs < 1e30, torch.tensor(big, dtype=D)))
    inf = torch.inf
    assert assign(cost=torch.tensor([[inf, 11, 8], [8, inf, 7]])).permutation.tolist() == [2, 0]
    assert assign(cost=torch.tensor([[inf, 11, 8], [8, inf, 7]])).cost == 16
    check(torch.tensor([[-625.0, 2187.5, -156.25, 1e6], [-2500, 1e6, -2500, -2500]]))


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_forbidden_pairs(backend):
    inf = torch.inf
    costs = torch.tensor([[inf, 1.0], [2.0, inf]])
    assert assign(cost=costs, backend=backend).cost == 3
    both = torch.stack([costs, costs.T])
    assert assign(cost=both, batched=True, backend=backend).cost.tolist() == [3, 3]
    for bad in ([[inf, inf], [1.0, 2]], [[inf, 1.0], [inf, 2]], [[inf]], [[inf, inf, inf]]):
        with pytest.raises(ValueError, match="cost matrix is infeasible"):
            assign(cost=torch.tensor(bad), backend=backend)
    for bad in (torch.nan, -inf):
        with pytest.raises(ValueError, match=r"cost: expected finite numbers, or inf.*\[1, 0\]"):
            assign(cost=torch.tensor([[inf, 1.0], [bad, 2.0]]), backend=backend)
    large = torch.tensor([[1.7e308, inf], [inf, -1.7e308]], dtype=D)
    assert assign(cost=large, backend=backend).permutation.tolist() == [0, 1]


@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean"])
@pytest.mark.parametrize("d", [2, 12])
def test_points_in_any_units(d, cost):
    g = torch.Generator().manual_seed(1)
    x0, x1 = torch.randn(2, 9, d, generator=g, dtype=D)
    expected = assign(x0, x1, cost=cost)
    for unit in (2.0**-800, 2.0**-500, 2.0**-40, 2.0**40, 2.0**450):
        found = assign(x0 * unit, x1 * unit, cost=cost, return_duals=True)
        assert torch.equal(found.permutation, expected.permutation)
        scale = unit if cost == "euclidean" else unit * unit
        assert found.cost == pytest.approx(expected.cost * scale, rel=1e-12)
    if cost == "euclidean":
        assert assign(x0 * 1e300, x1 * 1e300, cost=cost).cost < math.inf
    else:
        with pytest.raises(ValueError, match=r"x0, x1: .*do not fit in float64; rescale"):
            assign(x0 * 1e300, x1 * 1e300)


@pytest.mark.parametrize("d", [2, 12])
def test_near_clouds_have_a_true_gap(d):
    """Squared distances far below the coordinates: what a product loses is found by differences."""
    g = torch.Generator().manual_seed(2)
    x0 = torch.randn(64, d, generator=g, dtype=D)
    x1 = (x0 + 1e-9 * torch.randn(64, d, generator=g, dtype=D)).flip(0)
    for shift in (0, 1e6):
        a, b = x0 + shift, x1 + shift
        costs = (a[:, None] - b[None]).square().sum(2)
        i, j = linear_sum_assignment(costs.numpy())
        found = assign(a, b)
        least = costs[i, j].sum().item()
        assert costs[i, found.permutation].sum().item() == pytest.approx(least, rel=1e-12)
        assert abs(found.cost - least) <= found.gap <= 1e-6 * least
    assert assign(x0, x0, cost="euclidean").cost == 0


def test_whole_numbers_that_float64_does_not_have_are_refused():
    exact = torch.tensor([[2**53, 0], [1, 2**53]])
    assert assign(cost=exact).cost == 1
    with pytest.raises(ValueError, match=r"cost: whole numbers beyond 2\^53"):
        assign(cost=exact + 1)
    with pytest.raises(ValueError, match=r"x1: whole numbers beyond 2\^53"):
        assign(torch.tensor([0, 1]), torch.tensor([2**62 + 1, 3]))
