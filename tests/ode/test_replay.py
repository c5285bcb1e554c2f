"""Gradients through the accepted steps, against finite differences, with checkpoints or without."""

import pytest
import torch

import fastgen
from fastgen.ode import Controller, Status, Through
from tests.support.ode_gradients import Y0, Module, T, field, gradients, weights


@pytest.mark.parametrize("step", ["per_sample", "joint"])
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3", "rk4", "explicit_adams"])
def test_gradcheck_through(step, method):
    """Finite differences see the step sizes move, so these are held fixed."""
    fixed = method in ("rk4", "explicit_adams")
    held = Controller(min_step=0.15, max_step=0.15, first_step=0.15)
    pinned = {"step_size": 0.11} if fixed else {"controller": held}

    def run(y0, w, t):
        return fastgen.odeint(field(w), y0, t, method=method, step=step, **pinned)

    y0, t = Y0.clone().requires_grad_(), T.clone().requires_grad_(fixed)
    assert torch.autograd.gradcheck(run, (y0, weights(), t))


@pytest.mark.parametrize("checkpoint", ["none", "step", "binomial"])
def test_double_backward_through(checkpoint):
    pinned = Controller(min_step=0.25, max_step=0.25, first_step=0.25)
    way = Through(checkpoint, snapshots=2)

    def run(y0, w):
        return fastgen.odeint(field(w), y0, [0.0, 1.0], gradient=way, controller=pinned)[-1]

    arguments = Y0[:2].clone().requires_grad_(), weights()
    assert torch.autograd.gradcheck(run, arguments)
    assert torch.autograd.gradgradcheck(run, arguments)


@pytest.mark.parametrize("checkpoint", ["step", "binomial"])
@pytest.mark.parametrize("snapshots", [1, 3])
def test_checkpointing_changes_nothing(checkpoint, snapshots):
    plain = gradients("through", T)
    saved = gradients(Through(checkpoint, snapshots), T)
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
            way = Through(checkpoint, snapshots=3)
            fastgen.odeint(module, y0, [0.0, 9.0], gradient=way, max_step=0.1)
        held[checkpoint] = sum(kept)
    assert held["step"] < held["none"] / 8
    assert held["binomial"] < held["step"] / 4


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
