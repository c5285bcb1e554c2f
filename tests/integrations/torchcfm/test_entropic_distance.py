"""The Wasserstein distance of the entropic plan for the distance itself."""

import math

import pytest
import torch

import fastgen
from fastgen.integrations.torchcfm import plans
from fastgen.integrations.torchcfm import wasserstein as distance

D = torch.float64


def by_logarithms(x0, x1, reg):
    """The textbook's iteration, until nothing changes."""
    cost = torch.cdist(x0, x1, compute_mode="donot_use_mm_for_euclid_dist")
    n, m = cost.shape
    f = torch.zeros(n, 1, dtype=D)
    for _ in range(3000):
        g = -math.log(m) - torch.logsumexp(f - cost / reg, 0, keepdim=True)
        f = -math.log(n) - torch.logsumexp(g - cost / reg, 1, keepdim=True)
    return float(((f + g - cost / reg).exp() * cost).sum())


@pytest.mark.parametrize("sizes", [(24, 24), (17, 31), (1, 5)])
@pytest.mark.parametrize("reg", [1.0, 0.3, 0.1])
def test_it_is_that_of_the_iteration_in_logarithms(reg, sizes):
    g = torch.Generator().manual_seed(3)
    x0, x1 = (torch.randn(n, 2, generator=g, dtype=D) for n in sizes)
    for shift in (0.0, 50.0):
        found = distance(x0, x1 + shift, "sinkhorn", reg, 1)
        assert found == pytest.approx(by_logarithms(x0, x1 + shift, reg), rel=1e-6)


def test_small_regularisations_converge_and_approach_the_exact_distance():
    g = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(128, 2, generator=g), torch.randn(128, 2, generator=g) + 2
    exact = fastgen.wasserstein(x0, x1, 1)
    far, near = (distance(x0, x1, "sinkhorn", reg, 1) - exact for reg in (0.05, 0.01))
    assert 0 < near < far < 0.05


def test_a_plan_that_does_not_converge_says_how_far_off_it_is(monkeypatch):
    monkeypatch.setattr(plans, "SWEEPS", 300)
    monkeypatch.setattr(plans, "NEWTON_UP_TO", 0)
    g = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(64, 2, generator=g), torch.randn(64, 2, generator=g) + 2
    with pytest.warns(UserWarning, match=r"reg=0.001 has a marginal error of .*; give"):
        found = distance(x0, x1, "sinkhorn", 1e-3, 1)
    assert found == pytest.approx(fastgen.wasserstein(x0, x1, 1), rel=0.05)


def test_equal_and_single_points():
    x = torch.zeros(5, 3)
    assert distance(x, x, "sinkhorn", 0.05, 1) == 0
    assert distance(x[:1], x + 2, "sinkhorn", 0.05, 1) == pytest.approx(math.sqrt(12))
