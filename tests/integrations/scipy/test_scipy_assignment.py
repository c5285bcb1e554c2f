"""`linear_sum_assignment` against scipy's own."""

import numpy as np
import pytest

optimize = pytest.importorskip("scipy.optimize")
from fastgen.integrations.scipy import linear_sum_assignment  # noqa: E402


def matrix(n, m, kind, seed=0):
    rng = np.random.default_rng(seed)
    costs = rng.normal(size=(n, m))
    if kind == "integers":
        return rng.integers(-5, 6, size=(n, m))
    if kind == "booleans":
        return costs > 0
    if kind == "forbidden":
        costs[rng.random((n, m)) < 0.3] = np.inf
        np.fill_diagonal(costs, 1.0)
    return costs.astype(np.float32) if kind == "float32" else costs


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (4, 9), (9, 4), (40, 40)])
@pytest.mark.parametrize("kind", ["booleans", "float32", "forbidden", "integers", "normal"])
@pytest.mark.parametrize("maximize", [False, True])
def test_the_sum_is_scipys(shape, kind, maximize):
    costs = matrix(*shape, kind)
    if maximize and kind == "forbidden":
        costs = -costs
    expected = optimize.linear_sum_assignment(costs, maximize)
    rows, columns = linear_sum_assignment(costs, maximize)
    wide = costs.astype(np.float64)
    assert wide[rows, columns].sum() == pytest.approx(wide[expected].sum(), rel=1e-12, abs=1e-12)
    assert (np.diff(rows) > 0).all()
    assert len(set(columns)) == len(rows) == min(shape)
    assert rows.dtype == expected[0].dtype


def test_the_callers_matrix_is_left_alone():
    costs = matrix(6, 6, "normal")
    before = costs.copy()
    linear_sum_assignment(costs, maximize=True)
    assert (costs == before).all()


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_assign(shape):
    rows, columns = linear_sum_assignment(np.empty(shape))
    assert len(rows) == len(columns) == 0


WRONG = {
    "infeasible": ([[np.inf, 1.0], [np.inf, 2.0]], ValueError, "infeasible"),
    "minus infinity": ([[-np.inf, 1.0], [0.0, 2.0]], ValueError, "invalid numeric"),
    "nan": ([[np.nan, 1.0], [0.0, 2.0]], ValueError, "invalid numeric"),
    "text": (np.array([["a", "b"], ["c", "d"]]), TypeError, "Cannot cast array data"),
    "vector": ([1.0, 2.0], ValueError, "expected a matrix"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_errors(case):
    costs, kind, text = WRONG[case]
    with pytest.raises(kind, match=text):
        linear_sum_assignment(costs)
    with pytest.raises(kind):
        optimize.linear_sum_assignment(costs)
