"""Pairs drawn from a plan have the plan's law; rounded plans are good permutations."""

import math
from functools import partial

import pytest
import torch

from fastgen.couplings import Sinkhorn, round_to_permutation, sample_pairs, sinkhorn
from tests.support import clouds as support

clouds = partial(support.clouds, spread=1.5)


def test_pairs_have_the_law_of_the_plan():
    x0, x1 = clouds(12, 9, 2)
    weights = torch.arange(1, 13) / 78
    result = sinkhorn(x0, x1, 0.3, reg_scale="mean_cost", weights0=weights, tolerance=1e-5)
    count = 60000
    i, j = sample_pairs(result, count, seed=4)
    expected = result.plan().flatten() * count
    observed = torch.bincount(i * 9 + j, minlength=108).double()
    big = expected > 5
    chi = ((observed - expected)[big].square() / expected[big]).sum().item()
    freedom = int(big.sum()) - 1
    assert abs(chi - freedom) < 4.5 * math.sqrt(2 * freedom)


def test_every_row_once_and_reproducibly():
    x0, x1 = clouds(300, 400, 8)
    result = sinkhorn(x0, x1, 0.1, reg_scale="mean_cost")
    i, j = sample_pairs(result, seed=1, draw=3)
    assert torch.equal(i, torch.arange(300))
    assert torch.equal(j, sample_pairs(result, seed=1, draw=3)[1])
    assert not torch.equal(j, sample_pairs(result, seed=1, draw=4)[1])
    assert not torch.equal(j, sample_pairs(result, seed=2, draw=3)[1])


def test_partial_plans_choose_the_rows_they_move():
    x0, x1 = clouds(20, 20, 2)
    x0[:5] += 100  # too far to be worth moving
    result = sinkhorn(x0, x1, 0.5, mass=0.5)
    i, _ = sample_pairs(result, 500)
    assert i.min() >= 5


def cost(x0, x1, permutation):
    return (x0 - x1[permutation]).square().sum().item()


@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 2), (60, 60, 2), (60, 60, 32), (40, 60, 3)])
def test_rounding_is_a_good_permutation(n, m, d):
    optimize = pytest.importorskip("scipy.optimize")
    x0, x1 = clouds(n, m, d)
    result = sinkhorn(x0, x1, 0.02, reg_scale="absolute" if n == 1 else "mean_cost", tolerance=1e-3)
    found = round_to_permutation(result)
    assert len(found.unique()) == n
    best = optimize.linear_sum_assignment(torch.cdist(x0, x1).square().numpy())[1]
    independent = (x0[:, None] - x1).square().sum(-1).mean().item() * n
    excess = cost(x0, x1, found) - cost(x0, x1, torch.tensor(best))
    # With more columns than rows the plan's rows are spread over columns that stay free.
    assert excess <= (0.06 if n == m else 0.25) * independent + 1e-4


def test_exchanges_only_lower_the_cost():
    x0, x1 = clouds(200, 200, 2)
    result = sinkhorn(x0, x1, 0.1, reg_scale="mean_cost")
    costs = [
        cost(x0, x1, round_to_permutation(result, exchanges=rounds)) for rounds in (0, 1, 5, 50)
    ]
    assert costs[0] > costs[1] >= costs[2] >= costs[3]


def test_an_exact_solver_is_started_from_the_potential():
    optimize = pytest.importorskip("scipy.optimize")
    x0, x1 = clouds(50, 50, 2)
    result = sinkhorn(x0.double(), x1.double(), 0.005, reg_scale="mean_cost", tolerance=1e-4)

    def assign(a, b, warm_start):
        c = torch.cdist(a, b).square()
        # The potential is nearly dual optimal: u_i = min_j (c_ij - v_j).
        dual = ((c - warm_start).amin(1).sum() + warm_start.sum()).item()
        permutation = torch.tensor(optimize.linear_sum_assignment(c.numpy())[1])
        best = c[torch.arange(50), permutation].sum().item()
        assert best - 0.1 * c.mean().item() < dual <= best + 1e-9
        return permutation

    found = round_to_permutation(result, assign)
    best = optimize.linear_sum_assignment(torch.cdist(x0, x1).square().numpy())[1]
    assert torch.equal(found, torch.tensor(best))


def test_coupling_classes_give_indices():
    x0, x1 = clouds(64, 80, 3)
    coupling = Sinkhorn(0.1, seed=3)
    i, j = coupling(x0, x1)
    again = Sinkhorn(0.1, seed=3)
    assert torch.equal(again(x0, x1)[1], j)
    assert not torch.equal(coupling(x0, x1)[1], j)  # the next draw
    paired = (x0[i] - x1[j]).square().sum(1).mean()
    assert paired < 0.7 * (x0[:, None] - x1).square().sum(-1).mean()
    i, j = Sinkhorn(0.1, pairs="permutation")(x0, x1)
    assert torch.equal(i, torch.arange(64))
    assert len(j.unique()) == 64


def test_pairs_of_a_whole_plan_leave_out_what_it_leaves_out():
    x0, x1 = clouds(60, 60, 2)
    x0 = torch.cat([x0[:50], x0[50:] + 40])
    coupling = Sinkhorn(0.05, pairs="plan", options={"mass": 0.5})
    i, j = coupling(x0, x1)
    assert len(i) == len(j) == 60
    assert (i < 50).all()
    assert torch.equal(i, coupling.at(0, 0)(x0, x1)[0])
    assert not torch.equal(i, coupling(x0, x1)[0])  # the next draw


def test_couplings_do_not_ignore_what_they_are_given():
    x0, x1 = clouds(4, 4, 2)
    with pytest.raises(ValueError, match="labels0: Sinkhorn"):
        Sinkhorn()(x0, x1, torch.zeros(4), torch.zeros(4))
    with pytest.raises(ValueError, match="pairs='best'"):
        Sinkhorn(pairs="best")
    with pytest.raises(ValueError, match="reg=-1"):
        Sinkhorn(-1)
    with pytest.raises(TypeError):
        Sinkhorn(options={"regularisation": 1})(x0, x1)
    result = sinkhorn(x0, x1[:3], 1.0)
    with pytest.raises(ValueError, match="result: expected at most"):
        round_to_permutation(result)
    with pytest.raises(ValueError, match="draw=-1"):
        sample_pairs(result, draw=-1)
    with pytest.raises(ValueError, match="count=-2"):
        sample_pairs(result, -2)
