"""Assignments of points of which a few are far from the others: exact next to the others' costs."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from fastgen.couplings import assign
from fastgen.kernels.assignment import cpp


def clouds(kind, n, d):
    """Two clouds whose costs span many sizes."""
    g = np.random.default_rng(0)
    x, y = g.normal(size=(n, d)), 1.5 * g.normal(size=(n, d)) + 0.5
    if kind == "heavy tails":
        x, y = g.standard_cauchy((n, d)), g.standard_cauchy((n, d))
    if kind == "heavy data":  # one cloud alone
        y = g.standard_t(1.5, size=(n, d)) ** 3
    if kind == "few":
        x[::97] *= 1e5
        y[::89] *= 1e5
    if kind == "one":
        x[0] = 1e6
    if kind == "shifted":
        x, y = g.standard_cauchy((n, d)) + 1e3, g.standard_cauchy((n, d)) - 1e3
    if kind == "both sides":  # a ring, which the mean is far from
        x[: n // 20] += 1e5
        y[n // 20 : n // 10] -= 1e5
    return torch.from_numpy(x), torch.from_numpy(y)


def costs_of(x, y, cost):
    squares = ((x[:, None] - y) ** 2).sum(2)
    return squares if cost == "sqeuclidean" else squares.sqrt()


KINDS = ("heavy tails", "heavy data", "few", "one", "shifted", "both sides")


@pytest.mark.parametrize(
    ("kind", "n", "d", "cost"),
    [(kind, 1200, 2, cost) for kind in KINDS for cost in ("sqeuclidean", "euclidean")]
    + [("heavy tails", 2000, 4, "sqeuclidean")],
)
def test_costs_are_scipys(kind, n, d, cost):
    x, y = (z.float().double() for z in clouds(kind, n, d))
    costs = costs_of(x, y, cost)
    i, j = linear_sum_assignment(costs.numpy())
    best = costs[i, j]
    found = assign(x.float(), y.float(), cost=cost, return_duals=True)
    pairs = costs[torch.arange(len(x)), found.permutation]
    assert sorted(found.permutation.tolist()) == list(range(len(x)))
    # Next to most of the pairs: of the sum some far ones may be all.
    most = 1.1e-6 * best.clamp(max=1e3 * float(best.quantile(0.25))).sum()
    assert pairs.sum() - best.sum() <= most + 1e-14 * best.sum()
    assert found.gap <= most + 1e-14 * costs.max() * len(x)
    assert pairs.sum() - best.sum() <= found.gap + 1e-15 * best.sum()
    u, v = found.duals
    assert (u[:, None] + v - costs).max() <= 1e-13 * costs.max()


@pytest.mark.parametrize("d", [2, 16])
def test_far_points_do_not_depend_on_threads_or_order(d):
    x, y = (z.float() for z in clouds("heavy tails", 2000, d))
    once, twice = (assign(x, y, threads=threads) for threads in (1, 2))
    assert torch.equal(once.permutation, twice.permutation)
    assert once.gap == twice.gap
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    moved = assign(x[order], y)
    assert moved.cost == pytest.approx(once.cost, rel=1e-12)
    swapped = assign(y, x)
    assert swapped.cost == pytest.approx(once.cost, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean"])
def test_products_larger_than_half_of_the_memory_are_not_made(monkeypatch, dtype, cost):
    x, y = (points.to(dtype) for points in clouds("Gaussian", 150, 100))
    wanted = assign(x, y, cost=cost)
    monkeypatch.setattr(cpp, "LARGEST_PRODUCT", 150 * 150 * 4 - 1)
    monkeypatch.setattr(cpp, "_by_product", None)  # where the product would be made
    found = assign(x, y, cost=cost)
    assert torch.equal(found.permutation, wanted.permutation)
    assert found.cost == pytest.approx(wanted.cost, rel=1e-6)


def test_a_float64_product_that_would_be_too_large_is_not_the_second_try(monkeypatch):
    x, y = (points.float() for points in clouds("Gaussian", 150, 100))
    wanted, made = assign(x, y), []

    def of_no_use(problem, options, x0, x1):
        made.append(x0.dtype)
        return None, False

    monkeypatch.setattr(cpp, "LARGEST_PRODUCT", 150 * 150 * 4)
    monkeypatch.setattr(cpp, "_by_product", of_no_use)
    assert torch.equal(assign(x, y).permutation, wanted.permutation)
    assert made == [torch.float32]
