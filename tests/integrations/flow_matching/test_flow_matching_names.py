"""Small functions, base classes, and what is refused."""

import math

import pytest
import torch

from fastgen.integrations import flow_matching
from fastgen.integrations.flow_matching import loss, path, solver, utils
from fastgen.integrations.flow_matching.utils.manifolds import Sphere


def test_axes_are_added_at_either_end():
    t, x = torch.arange(3.0), torch.zeros(3, 4, 5)
    assert utils.unsqueeze_to_match(t, x).shape == (3, 1, 1)
    assert utils.unsqueeze_to_match(t, torch.zeros(7, 3), how="prefix").shape == (1, 3)
    wide = utils.expand_tensor_like(t, x)
    assert wide.shape == x.shape
    assert (wide[2] == 2).all()
    with pytest.raises(ValueError, match="how"):
        utils.unsqueeze_to_match(t, x, how="middle")
    with pytest.raises(ValueError, match="input_tensor"):
        utils.expand_tensor_like(t[:2], x)


def test_gradient_is_of_the_weighted_sum():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 3, dtype=torch.float64)
    first = utils.gradient(x**3, x, weights, create_graph=True)
    assert torch.allclose(first, 3 * x**2 * weights)
    assert torch.allclose(utils.gradient(first, x), 6 * x * weights)


def test_angles_between_unit_vectors():
    """Small ones too, of which the arc cosine has no digits."""
    sphere = Sphere()
    x = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    for angle in (1e-9, 0.5, math.pi / 2, math.pi):
        y = torch.tensor([[math.cos(angle), math.sin(angle), 0.0]], dtype=torch.float64)
        assert sphere.dist(x, y).item() == pytest.approx(angle, rel=1e-12)
    assert sphere.dist(x, y, keepdim=True).shape == (1, 1)
    assert set(Sphere.EPS) == {torch.float32, torch.float64}


def test_solvers_are_modules():
    """A network inside of a solver is among its parameters."""
    network = torch.nn.Linear(2, 2)
    made = solver.ODESolver(network)
    assert isinstance(made, solver.Solver)
    assert len(list(made.parameters())) == 2
    with pytest.raises(TypeError, match="abstract"):
        solver.Solver()


def test_wrong_shapes_are_either_error():
    for kind in (AssertionError, ValueError):
        with pytest.raises(kind, match=r"expected \[B"):
            path.ProbPath.assert_sample_shape(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(2))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (loss, "MixturePathGeneralizedKL"),
        (path, "MixtureDiscreteProbPath"),
        (solver, "MixtureDiscreteEulerSolver"),
        (utils, "categorical"),
    ],
)
def test_the_discrete_half_says_that_it_is_not_here(module, name):
    with pytest.raises(AttributeError, match=f"no {name}: discrete flow matching is not offered"):
        getattr(module, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018
    assert module.__name__.startswith(flow_matching.__name__)
