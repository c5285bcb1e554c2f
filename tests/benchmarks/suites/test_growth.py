"""Exponents and jumps of how assignment grows, and the costs it is measured on."""

import math

import numpy as np
import pytest
import torch

from benchmarks.peers import assignment
from benchmarks.problems.costs import KINDS, matrix
from benchmarks.suites import growth
from fastgen.couplings import assign


def test_exponents_are_those_of_a_power():
    times = {n: 1e-9 * n**2.5 for n in (256, 512, 1024, 2048, 4096)}
    assert growth.slope(times) == pytest.approx(2.5)
    assert [e for _, e in growth.exponents(times)] == pytest.approx([2.5] * 4)
    assert growth.jumps(times) == ""
    assert math.isnan(growth.slope({512: 1.0, 1024: 2.0}))


def test_a_jump_is_named():
    times = {1024: 0.01, 2048: 0.04, 4096: 4.0}
    assert growth.jumps(times) == "jumps 2048 to 4096: 6.6"


def test_rows_of_a_kind():
    found = list(growth.grow("Gaussian", 2, last=2048, patience=30.0))
    sizes = [row.shape for row in found if row.metric == "time"]
    assert sizes == ["256x2", "512x2", "1024x2", "2048x2"]
    assert [row.metric for row in found][-1] == "exponent"


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_have_a_pairing(kind):
    costs = matrix(kind, 24)
    assert costs.dtype == torch.float32
    assert (costs == torch.inf).any() == (kind == "forbidden pairs")
    least = assign(cost=costs)
    assert least.cost < math.inf
    for name, (_, solver) in assignment.solvers().items():
        if kind == "forbidden pairs" and name != "scipy":
            continue
        columns = solver(costs)
        assert sorted(columns.tolist()) == list(range(24))
        taken = costs.double().numpy()[np.arange(24), columns].sum()
        assert taken == pytest.approx(least.cost, rel=1e-6)
