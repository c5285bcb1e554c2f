"""Norms of the user's own, and fields that differentiate."""

import pytest
import torch
from torch import nn

from fastgen.integrations import torchdiffeq as mine

T = torch.tensor([0.0, 1.0], dtype=torch.float64)
Y0 = torch.tensor([1.0, 2.0], dtype=torch.float64)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()
        self.calls = 0

    def forward(self, t, y):
        self.calls += 1
        return self.layers(y) * torch.sin(5 * t)


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3", "adaptive_heun", "dopri8"])
def test_a_larger_norm_takes_more_steps(method):
    calls, ends = [], []
    for factor in (1, 100):
        f = Net()
        norm = lambda e, factor=factor: factor * e.abs().max()  # noqa: E731
        ends.append(mine.odeint(f, Y0, T, method=method, options={"norm": norm}, rtol=1e-4)[-1])
        calls.append(f.calls)
    assert calls[1] > calls[0]
    assert (ends[1] - ends[0]).abs().max() < 1e-3


def test_norms_see_the_state_as_it_was_given():
    seen = []

    def norm(e):
        seen.append(tuple(x.shape for x in e))
        return torch.stack([x.abs().max() for x in e]).max()

    state = torch.ones(()), torch.ones(2, 3)
    mine.odeint(lambda t, y: (-y[0], -y[1]), state, T.float(), options={"norm": norm})
    assert set(seen) == {((), (2, 3))}


@pytest.mark.parametrize("single", [True, False])
def test_norms_of_the_adjoint(single):
    """It is told (0, y, a, gradients); the gradient is that of the built-in norm."""
    found = []
    for own in (False, True):
        f, seen = Net(), []

        def norm(parts, seen=seen):
            seen.append([p.shape for p in parts])
            return torch.stack([p.abs().max() for p in parts]).max()

        y0 = Y0.clone().requires_grad_()
        state = y0 if single else (y0, torch.zeros(3, 1, dtype=torch.float64))
        field = f if single else lambda t, y, f=f: (f(t, y[0]), torch.ones_like(y[1]))
        options = {"adjoint_options": {"norm": norm}} if own else {}
        given = {"adjoint_params": tuple(f.parameters()), **options}
        ys = mine.odeint_adjoint(field, state, T, **given)
        (ys if single else ys[0])[-1].square().sum().backward()
        found.append((y0.grad, *(p.grad for p in f.parameters())))
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() < 1e-6
    state = [(2,)] if single else [(2,), (3, 1)]
    assert seen[0] == [(), *state, *state, *(p.shape for p in f.parameters())]


def test_the_norm_of_the_way_there_counts_on_the_way_back():
    asked = []

    def norm(e):
        asked.append(torch.is_grad_enabled())
        return e.abs().max()

    y0 = Y0.clone().requires_grad_()
    ys = mine.odeint_adjoint(Net(), y0, T, options={"norm": norm})
    forth = len(asked)
    ys[-1].sum().backward()
    # The largest of the state's and the gradient's norm for each error.
    assert len(asked) > forth > 0
    assert not any(asked)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_fields_that_differentiate_in_the_callers_mode(method):
    """grad log p of a Gaussian, as a score is written without enabling gradients: y' = -y."""
    y0 = Y0.clone().requires_grad_()

    def field(t, y):
        y = y if y.requires_grad else y.requires_grad_()
        return torch.autograd.grad(-0.5 * y.square().sum(), y, create_graph=True)[0]

    y = mine.odeint(
        field, y0, T, method=method, options={"step_size": 0.01} if method == "rk4" else {}
    )
    assert (y[-1] - Y0 * torch.exp(-T[1])).abs().max() < 1e-6
    (slope,) = torch.autograd.grad(y[-1].sum(), y0)
    assert (slope - torch.exp(-T[1])).abs().max() < 1e-6
    with torch.no_grad(), pytest.raises(RuntimeError, match="does not require grad"):
        mine.odeint(field, Y0, T, method="dopri5")


def test_seminorms_need_no_more_evaluations():
    calls = []
    for norm in ({}, {"adjoint_options": {"norm": "seminorm"}}):
        f = Net()
        ys = mine.odeint_adjoint(f, Y0, T, rtol=1e-8, atol=1e-8, **norm)
        f.calls = 0
        ys.sum().backward()
        calls.append(f.calls)
    assert calls[1] <= calls[0]
