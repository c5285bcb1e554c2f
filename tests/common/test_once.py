"""Gradients of the first order alone: no second one counts as zero, however it is asked for."""

import pytest
import torch

import fastgen
import fastgen.integrations.torchdiffeq as torchdiffeq
from fastgen import couplings

Y = torch.linspace(0.2, 1.4, 6, dtype=torch.float64).reshape(3, 2)
T = torch.tensor([0.0, 0.5], dtype=torch.float64)


def field(t, y):
    return torch.sin(y)


def motion(**options):
    times = [0.0, 0.5]
    return lambda y: fastgen.sdeint(
        field, lambda t, y: 0.1 * torch.cos(y), y, times, steps=3, seed=1, **options
    )


def final_time(y):
    return torchdiffeq.odeint_event(
        field,
        y[:, 0],
        T[:1],
        event_fn=lambda t, y: y.sum() - 4,
        odeint_interface=torchdiffeq.odeint,
    )[0]


VALUES = {
    "odeint_adjoint": lambda y: fastgen.odeint(field, y, T, gradient="adjoint")[-1].sum(),
    "odeint_event": final_time,
    "sdeint_adjoint": lambda y: motion(
        method="reversible_heun", gradient="adjoint", sde_type="stratonovich"
    )(y)[-1].sum(),
    "sinkhorn": lambda y: couplings.sinkhorn(y, Y + 0.3, 0.5).value,
    "sinkhorn_divergence": lambda y: couplings.sinkhorn_divergence(y, Y + 0.3, 0.5),
    "torchdiffeq_adjoint": lambda y: torchdiffeq.odeint_adjoint(
        field, y, T, adjoint_params=(), method="dopri5", adjoint_method="bosh3"
    )[-1].sum(),
    "weights": lambda w: (
        couplings.sinkhorn(Y, Y + 0.3, 0.5, weights0=w[:, 0] / w[:, 0].sum()).value
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_hessian_is_an_error(name):
    value = VALUES[name]
    (slope,) = torch.autograd.grad(value(y := Y.clone().requires_grad_()), y)
    assert slope.abs().sum() > 0
    for options in ({}, {"strict": True}, {"vectorize": True}):
        with pytest.raises(RuntimeError, match="this gradient has no derivative of its own"):
            torch.autograd.functional.hessian(value, Y, **options)
    with pytest.raises((RuntimeError, ValueError)):
        torch.func.hessian(value)(Y)


def test_what_can_be_differentiated_twice_is():
    def value(y):
        return fastgen.odeint(field, y, T, method="rk4", step_size=0.05)[-1].sum()

    found = torch.autograd.functional.hessian(value, Y)
    h = 1e-4
    moved = [torch.autograd.functional.jacobian(value, Y + s * h) for s in (1, -1)]
    torch.testing.assert_close(
        found.reshape(6, 6).sum(1).reshape(3, 2),
        (moved[0] - moved[1]) / (2 * h),
        rtol=1e-6,
        atol=1e-8,
    )


def test_points_may_be_written_to_before_the_gradient():
    x = Y.clone().requires_grad_()
    moved = x * 1.0
    value = couplings.sinkhorn(moved, Y + 0.3, 0.5).value
    (expected,) = torch.autograd.grad(value, x, retain_graph=True)
    with torch.no_grad():
        moved.zero_()
    (found,) = torch.autograd.grad(value, x)
    assert torch.equal(found, expected)
