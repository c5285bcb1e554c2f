"""Pairings: a line from each point to its partner."""

import math

import numpy as np
import pytest
import torch

import fastgen.couplings as couplings
from fastgen.plots import pairing


def lines(axes):
    return np.array([np.asarray(s) for s in axes.collections[0].get_segments()])


@pytest.fixture
def clouds():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 2, generator=generator, dtype=torch.float64) for n in (8, 8)]


def test_a_permutation(clouds):
    x0, x1 = clouds
    perm = torch.randperm(8)
    axes = pairing(x0, x1, perm)
    assert np.array_equal(lines(axes)[:, 0], x0)
    assert np.array_equal(lines(axes)[:, 1], x1[perm])
    assert np.array_equal(axes.collections[1].get_offsets(), x0)
    assert np.array_equal(axes.collections[2].get_offsets(), x1)


def test_an_assignment_with_points_left_over(clouds):
    x0, x1 = clouds[0], clouds[1][:5]
    found = couplings.assign(x0, x1)
    i, j = found.indices()
    for given in (found, found.permutation, (i, j), (i.numpy(), j.numpy())):
        drawn = lines(pairing(x0, x1, given))
        assert np.array_equal(drawn, torch.stack([x0[i], x1[j]], 1))


def test_masses_are_opacities(clouds):
    x0, x1 = clouds
    result = couplings.sinkhorn(x0, x1, 1.0)
    plan = result.plan()
    drawn = pairing(x0, x1, result)
    assert np.array_equal(lines(drawn), lines(pairing(x0, x1, plan.float().double())))
    i, j = (plan > 0.01 * plan.max()).nonzero(as_tuple=True)
    assert np.array_equal(lines(drawn), torch.stack([x0[i], x1[j]], 1))
    alpha = drawn.collections[0].get_alpha()
    assert np.allclose(alpha, 0.7 * plan[i, j] / plan.max())


def test_points_that_are_not_finite_and_gradients(clouds):
    x0, x1 = (x.bfloat16().requires_grad_() for x in clouds)
    x0.data[3] = math.nan
    axes = pairing(x0, x1, torch.arange(8))
    axes.figure.canvas.draw()
    assert len(axes.collections[1].get_offsets()) == 7


@pytest.mark.parametrize("n", [0, 1])
def test_empty_and_single(n):
    axes = pairing(torch.zeros(n, 2), torch.zeros(n, 2), torch.arange(n), title="few")
    axes.figure.canvas.draw()
    assert axes.get_title() == "few"


def test_refusals(clouds):
    x0, x1 = clouds
    for bad, message in (
        (torch.arange(7), r"expected \[8\]"),
        (torch.arange(8) + 1, "indices of 8 points, got 8"),
        (torch.zeros(8, 7), r"masses \[8, 8\]"),
        ((torch.arange(3), torch.arange(4)), "equal lengths"),
    ):
        with pytest.raises(ValueError, match=message):
            pairing(x0, x1, bad)
    with pytest.raises(ValueError, match=r"x1: expected points \[n, 2\]"):
        pairing(x0, torch.zeros(8, 3), torch.arange(8))
