"""Gradients: through the accepted steps and by the adjoint, against differences and truth."""

import math

import pytest
import torch
from torch import nn

import fastgen
from fastgen.ode import Status

TIGHT = {"rtol": 1e-9, "atol": 1e-9, "method": "dopri8"}
Y0 = torch.tensor([[0.3, -0.2], [1.1, 0.4], [2.5, -1.5]], dtype=torch.float64)
T = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)


def field(weights):
    def f(t, y):
        time = t[:, None] if t.ndim else t
        return torch.tanh(y @ weights) * (1 + 0.3 * torch.sin(3 * time)) - 0.1 * y

    return f


def weights():
    return torch.tensor([[0.4, -1.2], [0.8, 0.3]], dtype=torch.float64, requires_grad=True)


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(weights().detach())

    def forward(self, t, y):
        return field(self.weights)(t, y)


@pytest.mark.parametrize("step", ["per_sample", "joint"])
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3", "rk4", "explicit_adams"])
def test_gradcheck_through(step, method):
    """Finite differences see the step sizes move, so these are held fixed."""
    fixed = method in ("rk4", "explicit_adams")
    pinned = {"step_size": 0.11} if fixed else dict.fromkeys(("min_step", "max_step"), 0.15)
    pinned |= {} if fixed else {"first_step": 0.15}

    def run(y0, w, t):
        return fastgen.odeint(field(w), y0, t, method=method, step=step, **pinned)

    y0, t = Y0.clone().requires_grad_(), T.clone().requires_grad_(fixed)
    assert torch.autograd.gradcheck(run, (y0, weights(), t))


@pytest.mark.parametrize("checkpoint", ["none", "step", "binomial"])
def test_double_backward_through(checkpoint):
    pinned = {"min_step": 0.25, "max_step": 0.25, "first_step": 0.25}

    def run(y0, w):
        return fastgen.odeint(
            field(w), y0, [0.0, 1.0], checkpoint=checkpoint, snapshots=2, **pinned
        )[-1]

    arguments = Y0[:2].clone().requires_grad_(), weights()
    assert torch.autograd.gradcheck(run, arguments)
    assert torch.autograd.gradgradcheck(run, arguments)


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
            gradient="adjoint",
            parameters=(w,),
            adjoint_seminorm=seminorm,
            **TIGHT,
        )

    arguments = Y0[:2].clone().requires_grad_(), weights(), (direction * T[1:]).requires_grad_()
    if step == "per_sample" and not seminorm:
        with pytest.raises(ValueError, match="use step='joint'"):
            run(*arguments)
        return
    assert torch.autograd.gradcheck(run, arguments, eps=1e-4, atol=1e-5, rtol=1e-4)


def gradients(gradient, t, step="per_sample", compact=None, **options):
    module, y0 = Module(), Y0.clone().requires_grad_()
    time = t.clone().requires_grad_()
    ys = fastgen.odeint(
        module, y0, time, gradient=gradient, step=step, compact=compact, **TIGHT, **options
    )
    loss = (ys[1:] * torch.arange(1.0, 3.0).double()[:, None, None]).sin().sum()
    return torch.autograd.grad(loss, (y0, module.weights, time))


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


@pytest.mark.parametrize("checkpoint", ["step", "binomial"])
@pytest.mark.parametrize("snapshots", [1, 3])
def test_checkpointing_changes_nothing(checkpoint, snapshots):
    plain = gradients("through", T)
    saved = gradients("through", T, checkpoint=checkpoint, snapshots=snapshots)
    for a, b in zip(plain, saved, strict=True):
        assert torch.equal(a, b)


def test_checkpointing_keeps_less():
    """Tensors held between the passes: the tape, states of all steps, or a few of them."""
    held = {}
    for checkpoint in ("none", "step", "binomial"):
        kept = []

        def pack(x, kept=kept):
            kept.append(x.numel())
            return x

        module, y0 = Module(), torch.randn(64, 2).double().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            fastgen.odeint(module, y0, [0.0, 9.0], checkpoint=checkpoint, snapshots=3, max_step=0.1)
        held[checkpoint] = sum(kept)
    assert held["step"] < held["none"] / 8
    assert held["binomial"] < held["step"] / 4


def test_closed_form_of_every_gradient():
    """dy/dt = a y: dy(t)/dy0 = e^(at), dy/da = t y, dy/dt = a y, dy/dt0 = -a y."""
    for gradient in ("through", "adjoint"):
        a = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
        y0 = torch.tensor([[1.5]], dtype=torch.float64, requires_grad=True)
        t = torch.tensor([0.2, 1.1], dtype=torch.float64, requires_grad=True)
        y = fastgen.odeint(
            lambda t, y, a=a: a * y, y0, t, gradient=gradient, parameters=(a,), **TIGHT
        )[-1]
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


def test_gradients_of_samples_that_fail():
    """The last state that was reached has gradients too."""
    y0 = torch.tensor([[0.5], [2.0]], dtype=torch.float64, requires_grad=True)
    found = fastgen.odeint(
        lambda t, y: y * y, y0, [0.0, 1.0], on_failure="return", return_solution=True, max_steps=8
    )
    assert found.status.tolist() == [Status.DONE, Status.MAX_STEPS]
    (g,) = torch.autograd.grad(found.ys[-1].sum(), y0)
    exact = (found.ys[-1] / y0).detach() ** 2
    assert torch.allclose(g, exact, rtol=1e-3)
