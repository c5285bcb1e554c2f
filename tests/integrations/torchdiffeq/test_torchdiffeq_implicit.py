"""Implicit methods of fixed steps."""

import math

import pytest
import torch

from fastgen.integrations import torchdiffeq as mine
from fastgen.integrations.torchdiffeq.implicit import TABLEAUS, gmres

Y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)


def field(t, y):
    return torch.stack([-y[0] * torch.cos(t) + y[1] ** 2, -y[1] + torch.sin(3 * t) * y[0]])


@pytest.mark.parametrize("method", TABLEAUS)
def test_orders(method):
    """The error falls like h^order, where the right-hand side depends on time, too."""
    end = torch.tensor([0.0, 1.0], dtype=torch.float64)
    exact = mine.odeint(field, Y0, end, rtol=1e-12, atol=1e-13)[-1]
    errors = []
    for steps in (4, 8):
        t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        errors.append(float((mine.odeint(field, Y0, t, method=method)[-1] - exact).norm()))
    order = math.log2(errors[0] / errors[1])
    assert abs(order - TABLEAUS[method].order) < 0.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["implicit_euler", "radauIIA5", "trbdf2", "sdirk2"])
def test_stiff_equations(method, dtype):
    """y' = -1e4 (y - cos t) with steps of 0.1, where explicit methods need 2e-4."""
    f = lambda t, y: -1e4 * (y - torch.cos(t))  # noqa: E731
    t = torch.linspace(0, 1, 11, dtype=dtype)
    y = mine.odeint(f, torch.zeros(3, dtype=dtype), t, method=method)
    assert (y[-1] - math.cos(1)).abs().max() < 1e-3


@pytest.mark.parametrize("method", TABLEAUS)
def test_gradients_are_those_of_the_solution(method):
    """Of the steps as functions of the start, the times and a parameter."""
    rate = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    y0 = Y0.clone().requires_grad_()
    t = torch.tensor([0.0, 0.3, 0.5], dtype=torch.float64, requires_grad=True)

    def solve(y0, t, rate):
        return mine.odeint(lambda t, y: field(t, y) * rate, y0, t, method=method)

    assert torch.autograd.gradcheck(solve, (y0, t, rate))
    value = solve(y0, t, rate)[-1].sum()
    (first,) = torch.autograd.grad(value, rate, create_graph=True)
    with pytest.raises(RuntimeError, match="no derivative of its own"):
        first.backward()


def test_steps_of_an_event_and_of_a_tuple():
    """The trapezoidal rule falls 4.9 t^2 exactly."""
    t, (y, v) = mine.odeint(
        lambda t, state: (state[1], torch.full_like(state[1], -9.8)),
        (torch.tensor([4.9]), torch.zeros(1)),
        torch.tensor([0.0, 1.0]),
        method="trapezoid",
        options={"step_size": 0.3, "interp": "cubic"},
        event_fn=lambda t, state: state[0],
    )
    assert abs(float(t) - 1) < 1e-6
    assert abs(float(v[-1]) + 9.8) < 1e-4
    assert abs(float(y[-1])) < 1e-4


def test_no_solution_is_warned_of():
    """y' = y^2 by a step that goes too far: k = (1 + h k)^2 has no real root for h > 1/4."""
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.warns(UserWarning, match="did not converge"):
        mine.odeint(
            lambda t, y: y**2, torch.ones(1, dtype=torch.float64), t, method="implicit_euler"
        )
    with pytest.raises(ValueError, match="max_order"):
        mine.odeint(field, Y0, t, method="gl4", options={"max_order": 3})


def test_gmres_against_a_direct_solver():
    torch.manual_seed(3)
    matrix = torch.eye(30, dtype=torch.float64) + 0.3 * torch.randn(30, 30, dtype=torch.float64)
    b = torch.randn(30, dtype=torch.float64)
    x = gmres(lambda v: matrix @ v, b, 1e-12)
    assert (x - torch.linalg.solve(matrix, b)).norm() < 1e-8 * b.norm() * torch.linalg.cond(matrix)


def test_explicit_adams_is_right_in_float32():
    """y = exp(-t) by 300 steps: high orders let roundings grow."""
    y = mine.odeint(
        lambda t, y: -y,
        torch.ones(2),
        torch.tensor([0.0, 3.0]),
        method="explicit_adams",
        options={"step_size": 0.01},
    )
    assert abs(float(y[-1, 0]) - math.exp(-3)) < 1e-5
