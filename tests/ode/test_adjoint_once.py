"""A gradient by an adjoint has no derivative of its own, and says so."""

import pytest
import torch

import fastgen


def test_a_second_derivative_is_refused():
    y0 = torch.tensor([[0.3, -0.4]], dtype=torch.float64, requires_grad=True)
    end = fastgen.odeint(lambda t, y: torch.sin(y), y0, [0.0, 1.0], gradient="adjoint")[-1]
    (slope,) = torch.autograd.grad(end.sum(), y0, create_graph=True)
    with pytest.raises(RuntimeError, match="this gradient has no derivative of its own"):
        slope.sum().backward()
