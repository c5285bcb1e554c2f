"""Coefficients that cannot be those of an explicit Runge-Kutta method are refused."""

import pytest

from fastgen.common.tableau import Tableau
from fastgen.ode import tableaus


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (((0.0, 1.0), ((),), (1.0,)), "a must have one entry for each of the 2 stages, got 1"),
        (((0.0, 1.0), ((), (1.0,)), (1.0,)), "b must have one entry"),
        (((0.0, 1.0), ((), (1.0,)), (0.5, 0.5), (1.0,)), "error must have one entry"),
        (((0.0, 1.0), ((), (1.0, 0.0)), (0.5, 0.5)), r"a\[1\] must have 1 entries"),
        (((0.0, 1.0), ((), (0.5,)), (0.5, 0.5)), r"sum to c\[1\]=1.0"),
        (((0.0, 1.0), ((), (1.0,)), (0.5, 0.6)), "weights b must sum to 1"),
        (((0.0, 0.5), ((), (0.5,))), "weights b must sum to 1"),
    ],
)
def test_wrong_coefficients(parts, message):
    with pytest.raises(ValueError, match=message):
        Tableau(*parts)


def test_weights_are_given_or_in_the_last_row():
    assert Tableau((0.0, 1.0), ((), (1.0,))).weights == (1.0, 0.0)
    assert tableaus.HEUN.weights == (0.5, 0.5)
    assert not tableaus.HEUN.adaptive
    assert tableaus.DOPRI5.weights[-1] == 0.0
