"""Exact plans between clouds of any two sizes."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from fastgen.couplings import assign, wasserstein
from fastgen.couplings.costs import problem
from fastgen.couplings.uniform import uniform_plan
from fastgen.integrations.torchcfm import OTPlanSampler
from fastgen.integrations.torchcfm import wasserstein as torchcfm_wasserstein
from fastgen.integrations.torchcfm.conditional_flow_matching import (
    ExactOptimalTransportConditionalFlowMatcher,
)
from fastgen.kernels.assignment.transport import ship

D = torch.float64


def uniform_problem(costs):
    n, m = costs.shape
    parts = math.lcm(n, m)
    supply, demand = (torch.full((k,), parts // k) for k in (n, m))
    return problem(None, None, costs, batched=False), supply, demand


def total(costs, plan):
    cells = zip(plan.rows.tolist(), plan.columns.tolist(), plan.amounts.tolist(), strict=True)
    return sum(Fraction(costs[i, j].item()) * amount for i, j, amount in cells)


@given(
    st.integers(1, 8), st.integers(1, 8), st.sampled_from((0, 5, 200)), st.integers(0, 2**32 - 1)
)
def test_equals_an_assignment_of_parts(n, m, powers, seed):
    g = np.random.default_rng(seed)
    costs = torch.from_numpy(
        g.integers(-20, 21, (n, m)) * 10.0 ** g.integers(0, powers + 1, (n, m))
    )
    given_, supply, demand = uniform_problem(costs)
    parts = costs.repeat_interleave(supply[0].item(), 0).repeat_interleave(demand[0].item(), 1)
    j = assign(cost=parts).permutation.tolist()
    least = sum(Fraction(parts[k, at].item()) for k, at in enumerate(j))
    for backend in ("cpp", "reference"):
        plan = ship(given_, supply, demand, backend)
        amounts = torch.zeros(n, m, dtype=torch.int64)
        amounts[plan.rows, plan.columns] = plan.amounts
        assert torch.equal(amounts.sum(1), supply)
        assert torch.equal(amounts.sum(0), demand)
        assert len(plan.rows) <= n + m - 1
        assert total(costs, plan) == least
        assert abs(Fraction(plan.cost) - least) <= Fraction(plan.gap)
        u, v = plan.duals
        largest = max(u.abs().max().item(), v.abs().max().item(), costs.abs().max().item())
        assert (u[:, None] + v - costs).max() <= 1e-14 * largest


@pytest.mark.parametrize(("n", "m"), [(128, 127), (97, 101), (1000, 999), (2, 8191), (600, 400)])
def test_large_sizes_are_proved_by_their_duals(n, m):
    g = torch.Generator().manual_seed(n)
    x0, x1 = torch.randn(n, 2, generator=g, dtype=D), torch.randn(m, 2, generator=g, dtype=D)
    plan, parts = uniform_plan(x0, x1)
    costs = (x0[:, None] - x1[None]).square().sum(2)
    u, v = plan.duals
    slack = u[:, None] + v - costs
    assert slack.max() <= 1e-13
    dual = u.mean() + v.mean()
    assert plan.cost / parts == pytest.approx(dual.item(), rel=1e-12)
    assert plan.gap <= 1e-13 * plan.cost
    w = wasserstein(x0, x1)
    assert w**2 == pytest.approx(dual.item(), rel=1e-12)
    assert torchcfm_wasserstein(x0, x1) == pytest.approx(w, rel=1e-12)
    distances = costs.sqrt()
    plan, parts = uniform_plan(x0, x1, "euclidean")
    assert (plan.duals[0][:, None] + plan.duals[1] - distances).max() <= 1e-13
    assert wasserstein(x0, x1, 1) == pytest.approx(plan.cost / parts, rel=1e-12)
    assert torchcfm_wasserstein(x0, x1, power=1) == pytest.approx(plan.cost / parts, rel=1e-9)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_on_the_line(n, m, seed):
    """There the plan is by quantiles."""
    g = torch.Generator().manual_seed(seed)
    x0, x1 = torch.randn(n, generator=g, dtype=D), torch.rand(m, generator=g, dtype=D)
    expected = wasserstein_distance(x0.numpy(), x1.numpy())
    assert wasserstein(x0, x1, 1) == pytest.approx(expected, rel=1e-12)
    quantiles = [x.sort().values.repeat_interleave(math.lcm(n, m) // len(x)) for x in (x0, x1)]
    for p in (2, 3.5):
        expected = (quantiles[0] - quantiles[1]).abs().pow(p).mean() ** (1 / p)
        assert wasserstein(x0, x1, p) == pytest.approx(expected.item(), rel=1e-11)


def test_a_point_far_away_and_units():
    g = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(31, 2, generator=g, dtype=D), torch.randn(30, 2, generator=g, dtype=D)
    expected = wasserstein(x0, x1)
    for unit in (1e-200, 1e200):
        assert wasserstein(x0 * unit, x1 * unit) == pytest.approx(expected * unit, rel=1e-12)
        value = wasserstein(x0[:30] * unit, x1 * unit, method="sliced")
        assert value == pytest.approx(wasserstein(x0[:30], x1, method="sliced") * unit, rel=1e-12)
    x0[3], x1[4] = 1e9, 1e9  # 1/30 of the mass against 1/31
    parts = [x.repeat_interleave(930 // len(x), 0) for x in (x0, x1)]
    plan, _ = uniform_plan(x0, x1)
    costs = (x0[:, None] - x1[None]).square().sum(2)
    expected = assign(cost=(parts[0][:, None] - parts[1][None]).square().sum(2))
    rows = torch.arange(930) // 30
    pairs = costs[rows, expected.permutation // 31]
    near = pairs[pairs < 1e9].sum().item()
    mine = costs[plan.rows, plan.columns]
    assert (mine * plan.amounts)[mine < 1e9].sum().item() == pytest.approx(near, rel=1e-12)


def test_samplers_and_matchers_of_any_sizes():
    g = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(128, 2, generator=g), torch.randn(127, 2, generator=g)
    plan = OTPlanSampler("exact").get_map(x0, x1)
    np.testing.assert_allclose(plan.sum(1), 1 / 128, rtol=1e-13)
    np.testing.assert_allclose(plan.sum(0), 1 / 127, rtol=1e-13)
    cost = (plan * torch.cdist(x0.double(), x1.double()).square().numpy()).sum()
    assert cost == pytest.approx(wasserstein(x0, x1) ** 2, rel=1e-12)
    a, b = OTPlanSampler("exact").sample_plan(x0, x1)
    assert a.shape == b.shape == (128, 2)
    matcher = ExactOptimalTransportConditionalFlowMatcher(0.1)
    t, xt, ut = matcher.sample_location_and_conditional_flow(x0, x1)
    assert t.shape == (128,)
    assert xt.shape == ut.shape == (128, 2)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_errors_name_the_argument(backend):
    one = torch.ones(2, dtype=torch.int64)
    for bad in (torch.nan, torch.inf):
        costs = torch.tensor([[1.0, bad], [2.0, 3.0]])
        with pytest.raises(ValueError, match="cost: expected finite"):
            ship(problem(None, None, costs, batched=False), one, one, backend)
        with pytest.raises(ValueError, match="x0: expected finite"):
            ship(problem(costs, torch.ones(2, 2), "euclidean", batched=False), one, one, backend)
    with pytest.raises(ValueError, match="x1: expected shape"):
        wasserstein(torch.ones(3, 2), torch.ones(4, 3))
    with pytest.raises(ValueError, match="p=400: powers of the distances do not fit"):
        wasserstein(torch.tensor([[0.0], [1e3]]), torch.tensor([[1e4], [5.0]]), 400)
    with pytest.raises(ValueError, match="x1: expected shape"):
        wasserstein(torch.ones(3, 2), torch.ones(4, 2), method="sliced")
