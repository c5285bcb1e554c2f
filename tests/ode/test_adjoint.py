"""Gradients by the continuous adjoint, against differences, closed forms and those of the steps."""

import math

import pytest
import torch

import fastgen
from fastgen.ode import Adjoint
from tests.support.ode_gradients import TIGHT, Y0, Module, T, field, gradients, weights


@pytest.mark.parametrize("step", ["per_sample", "joint"])
@pytest.mark.parametrize("seminorm", [True, False])
@pytest.mark.parametrize("direction", [1, -1])
def test_gradcheck_adjoint(step, seminorm, direction):
    def run(y0, w, t):
        return fastgen.odeint(
            field(w),
            y0,
            t,
            step=step,
            gradient=Adjoint(parameters=(w,), seminorm=seminorm),
            **TIGHT,
        )

    arguments = Y0[:2].clone().requires_grad_(), weights(), (direction * T[1:]).requires_grad_()
    if step == "per_sample" and not seminorm:
        with pytest.raises(ValueError, match="use step='joint'"):
            run(*arguments)
        return
    assert torch.autograd.gradcheck(run, arguments, eps=1e-4, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize(
    "t", [T, -T, torch.stack([T, -T, T * 2]), torch.stack([T, T * 0, T])], ids=str
)
def test_adjoint_agrees_with_through(t, compact):
    """Also with an interval, a direction for each sample, and one that stands still."""
    for a, b in zip(
        gradients("through", t, compact=compact),
        gradients("adjoint", t, compact=compact),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=2e-7)


def test_closed_form_of_every_gradient():
    """dy/dt = a y: dy(t)/dy0 = e^(at), dy/da = t y, dy/dt = a y, dy/dt0 = -a y."""
    for gradient in ("through", "adjoint"):
        a = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
        y0 = torch.tensor([[1.5]], dtype=torch.float64, requires_grad=True)
        t = torch.tensor([0.2, 1.1], dtype=torch.float64, requires_grad=True)
        way = Adjoint(parameters=(a,)) if gradient == "adjoint" else gradient
        y = fastgen.odeint(lambda t, y, a=a: a * y, y0, t, gradient=way, **TIGHT)[-1]
        found = torch.autograd.grad(y.sum(), (y0, a, t))
        value, span = 1.5 * math.exp(-0.7 * 0.9), 0.9
        assert found[0].item() == pytest.approx(value / 1.5, abs=1e-8)
        assert found[1].item() == pytest.approx(span * value, abs=1e-8)
        assert found[2].tolist() == pytest.approx([0.7 * value, -0.7 * value], abs=1e-7)


def test_parameters_are_found_or_asked_for():
    module, w = Module(), weights()
    for f in (module, module.forward):
        (g,) = torch.autograd.grad(
            fastgen.odeint(f, Y0, T, gradient="adjoint").sum(), [module.weights]
        )
        assert g.abs().max() > 0.1
    with pytest.raises(ValueError, match=r"parameters=\(\.\.\.\)"):
        fastgen.odeint(field(w), Y0, T, gradient="adjoint")
    assert fastgen.odeint(field(w), Y0, T).requires_grad
    assert not fastgen.odeint(field(w), Y0, T, gradient="none").requires_grad
    with torch.no_grad():
        assert not fastgen.odeint(module, Y0, T).requires_grad
    assert not fastgen.odeint(lambda t, y: -y, Y0, T).requires_grad
