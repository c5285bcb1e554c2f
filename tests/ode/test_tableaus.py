"""Every tableau and interpolant satisfies the order conditions of its rooted trees (Butcher)."""

from functools import lru_cache

import numpy as np
import pytest

import fastgen
from fastgen.ode import tableaus
from fastgen.sampling.error_controlled import SOLVERS

ALL = {**tableaus.ADAPTIVE, **tableaus.FIXED}


@lru_cache
def trees(size):
    """Rooted trees of that many vertices, each the sorted tuple of its branches."""
    found = set()

    def grow(left, branches):
        if not left:
            found.add(tuple(sorted(branches)))
        for n in range(1, left + 1):
            for tree in trees(n):
                grow(left - n, (*branches, tree))

    grow(size - 1, ())
    return sorted(found)


def density(tree):
    """(vertices, gamma)."""
    parts = [density(b) for b in tree]
    size = 1 + sum(n for n, _ in parts)
    return size, size * int(np.prod([g for _, g in parts], dtype=np.int64))


def weight(tree, a):
    """The elementary weights of the stages."""
    value = np.ones(len(a))
    for branch in tree:
        value = value * (a @ weight(branch, a))
    return value


def residuals(tableau, b, order, theta=1.0):
    """The largest |sum_j b_j phi_j - theta^order / gamma| over trees of that order."""
    a = tableau.matrix.numpy()
    return max(abs(b @ weight(tree, a) - theta**order / density(tree)[1]) for tree in trees(order))


def test_there_are_as_many_trees_as_there_should_be():
    assert [len(trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]


@pytest.mark.parametrize("name", ALL)
def test_order_of_the_solution(name):
    tableau = ALL[name]
    b = np.array(tableau.weights)
    assert np.allclose(tableau.matrix.sum(1), tableau.nodes, atol=1e-13)
    for order in range(1, tableau.order + 1):
        assert residuals(tableau, b, order) < 1e-13
    if tableau.order < 8:
        assert residuals(tableau, b, tableau.order + 1) > 1e-5


@pytest.mark.parametrize("name", tableaus.ADAPTIVE)
def test_order_of_the_error_estimate(name):
    """e = b - b^ of a method one order lower (Prince and Dormand's is of order 7)."""
    tableau = tableaus.ADAPTIVE[name]
    lower = np.array(tableau.weights) - np.array(tableau.error)
    for order in range(1, tableau.order):
        assert residuals(tableau, lower, order) < 1e-13
    assert residuals(tableau, lower, tableau.order) > 1e-5


@pytest.mark.parametrize("name", tableaus.ADAPTIVE)
def test_order_and_smoothness_of_the_interpolant(name):
    tableau = tableaus.ADAPTIVE[name]
    dense, powers = tableau.polynomials.numpy(), np.arange(1, tableau.polynomials.shape[1] + 1)
    for theta in (0.2, 0.7):
        for order in range(1, tableau.dense_order + 1):
            assert residuals(tableau, dense @ theta**powers, order, theta) < 1e-12
    first, last = np.eye(tableau.stages)[[0, -1]]
    assert np.allclose(dense.sum(1), tableau.weights, atol=1e-12)
    assert np.allclose(dense[:, 0], first, atol=1e-12)
    assert np.allclose(dense @ powers, last, atol=1e-11)


def test_names_do_not_collide_with_plans():
    assert not set(SOLVERS) & set(fastgen.solvers.names())
