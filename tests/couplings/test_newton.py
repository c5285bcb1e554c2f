"""Entropic plans by Newton's method."""

import math

import pytest
import torch

from fastgen.couplings import assign, sinkhorn
from fastgen.couplings.newton import newton_plan

D = torch.float64


def clouds(n, m, d=2, seed=0):
    torch.manual_seed(seed)
    return torch.randn(n, d, dtype=D), torch.randn(m, d, dtype=D) + 1


@pytest.mark.parametrize("reg", [1.0, 0.1, 0.02])
def test_two_points_in_closed_form(reg):
    """P_11 / P_12 = exp(c / reg) for costs 0 on the diagonal and c beside it."""
    found = newton_plan(torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=D), reg)
    on = 0.5 / (1 + math.exp(-1 / reg))
    assert (found.plan - torch.tensor([[on, 0.5 - on], [0.5 - on, on]], dtype=D)).abs().max() < 1e-9


@pytest.mark.parametrize("shape", [(60, 60), (50, 30), (20, 70)])
@pytest.mark.parametrize("uniform", [True, False])
def test_the_plan_of_sinkhorns_sweeps(shape, uniform):
    x0, x1 = clouds(*shape)
    weights = {}
    if not uniform:
        weights = {"weights0": torch.rand(len(x0), dtype=D) + 0.1}
        weights["weights1"] = torch.rand(len(x1), dtype=D) + 0.1
        weights = {k: w / w.sum() for k, w in weights.items()}
    cost = torch.cdist(x0, x1).square()
    found = newton_plan(cost, 0.3, **weights)
    swept = sinkhorn(x0, x1, 0.3, tolerance=1e-11, max_iterations=20_000, **weights)
    assert found.error < 1e-9
    assert abs(float((found.plan * cost).sum()) - swept.transport_cost()) < 1e-7
    a = weights.get("weights0", torch.full((len(x0),), 1 / len(x0), dtype=D))
    assert (found.plan.sum(1) - a).abs().max() < 1e-12
    scores = (found.f[:, None] + found.g - cost) / 0.3
    assert (scores.exp() - found.plan).abs().max() < 1e-12


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("reg", [1e-2, 1e-3, 1e-4])
def test_small_regularisations_come_to_the_assignment(seed, reg):
    """The cost is above the least one, by at most reg times the entropy that a plan can have."""
    n = 64
    x0, x1 = clouds(n, n, seed=seed)
    cost = torch.cdist(x0, x1).square()
    found = newton_plan(cost, reg)
    least = float(assign(x0, x1).cost) / n
    assert found.error < 1e-9
    assert found.iterations < 200
    assert -1e-9 < float((found.plan * cost).sum()) - least < reg * math.log(n)


def test_what_there_is_comes_back_with_its_error():
    x0, x1 = clouds(40, 40)
    found = newton_plan(torch.cdist(x0, x1), 1e-3, max_iterations=3)
    assert found.iterations == 3
    missed = (found.plan.sum(0) - 1 / 40).abs().sum()
    assert found.error == pytest.approx(float(missed))
    assert found.error > 1e-9
