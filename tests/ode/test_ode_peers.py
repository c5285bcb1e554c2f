"""torchdiffeq's own test problems, solved alike: all methods, dtypes and directions."""

import math

import pytest
import torch

import fastgen
from fastgen.ode import METHODS

torchdiffeq = pytest.importorskip("torchdiffeq")

A = 0.2


def constant(t, y):
    return A + (y - (A * t + 3.0)) ** 5


def sine(t, y):
    return 2 * y / t + t**4 * torch.sin(2 * t) - t**2 + 4 * t**3


def exponential(t, y):
    return torch.stack([y[1], -y[0] - 0.3 * y[1]])


def linear(t, y):
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(5, 5, generator=generator, dtype=torch.float64) * 0.1
    return (2 * u - (u + u.T)).to(y) @ y


def problem(name, dtype, reverse):
    t = torch.linspace(1.0, 4.0, 7, dtype=dtype)
    if name == "constant":
        f, exact = constant, A * t + 3.0
    elif name == "sine":
        f = sine
        exact = (
            -0.5 * t**4 * torch.cos(2 * t)
            + 0.5 * t**3 * torch.sin(2 * t)
            + 0.25 * t**2 * torch.cos(2 * t)
            - t**3
            + 2 * t**4
            + (math.pi - 0.25) * t**2
        )
    else:
        f = linear if name == "linear" else exponential
        y0 = torch.ones(5 if name == "linear" else 2, dtype=torch.float64)
        matrix = torch.stack([f(None, e) for e in torch.eye(len(y0)).double()], 1)
        spans = (t.double() - 1.0)[:, None, None]
        exact = (torch.linalg.matrix_exp(spans * matrix) @ y0).to(dtype)
    if reverse:
        t, exact = t.flip(0), exact.flip(0)
    return f, t, exact


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["constant", "linear", "sine", "exponential"])
@pytest.mark.parametrize("method", [m for m in METHODS if m != "adaptive_heun"])
def test_problems(method, name, dtype, reverse):
    f, t, exact = problem(name, dtype, reverse)
    fixed = method in ("euler", "midpoint", "heun", "rk4", "rk4_classic", "explicit_adams")
    options = {"step_size": 0.01} if fixed else {"rtol": 1e-6, "atol": 1e-6}
    if method == "fehlberg2":
        options = {"rtol": 1e-7, "atol": 1e-8}  # its estimate is 512 times too small
    y = fastgen.odeint(f, exact[0], t, method=method, step="joint", **options)
    assert y.dtype == dtype
    tolerance = {"euler": 0.05, "midpoint": 2e-3, "heun": 2e-3, "fehlberg2": 5e-3}.get(method, 5e-4)
    assert ((y - exact).abs() / exact.abs().max()).max() < tolerance


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "dopri8", "adaptive_heun", "fehlberg2"])
@pytest.mark.parametrize("name", ["linear", "sine"])
def test_states_agree_with_torchdiffeq(method, name):
    f, t, exact = problem(name, torch.float64, False)
    tolerances = {"rtol": 1e-5, "atol": 1e-6}
    ours = fastgen.odeint(f, exact[0], t, method=method, step="joint", **tolerances)
    theirs = torchdiffeq.odeint(f, exact[0], t, method=method, **tolerances)
    # theirs propagates Fehlberg's first order, reads outputs off a quartic and is less accurate.
    off = (theirs - exact).abs().max() + (ours - exact).abs().max()
    assert (ours - theirs).abs().max() <= off + 1e-12
    assert (ours - exact).abs().max() < 1e-3 * exact.abs().max()


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
def test_fixed_steps_are_those_of_torchdiffeq(method):
    f, t, exact = problem("linear", torch.float64, False)
    ours = fastgen.odeint(f, exact[0], t, method=method, step="joint")
    theirs = torchdiffeq.odeint(f, exact[0], t, method=method)
    assert torch.allclose(ours, theirs, rtol=1e-13, atol=1e-13)


def test_adjoint_agrees_with_torchdiffeq():
    f, t, exact = problem("linear", torch.float64, False)

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def forward(self, t, y):
            return self.scale * f(t, y) + 0.1 * torch.sin(t) * y

    found = []
    for solve in (
        lambda m, y: fastgen.odeint(
            m, y, t, step="joint", gradient="adjoint", rtol=1e-9, atol=1e-9
        ),
        lambda m, y: torchdiffeq.odeint_adjoint(m, y, t, rtol=1e-9, atol=1e-9),
    ):
        module, y0 = Module(), exact[0].clone().requires_grad_()
        loss = solve(module, y0).square().sum()
        found.append(torch.autograd.grad(loss, (y0, module.scale)))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
