"""The reversible Heun method: the way back, and gradients in the memory of one step."""

import pytest
import torch

import fastgen
from fastgen.sde.equation import Equation
from fastgen.sde.reversible import Leap
from fastgen.sde.sources import Draws, grid_of
from tests.support.sde_equations import cosine_diffusion as g
from tests.support.sde_equations import sine_drift as f


class Net(torch.nn.Module):
    def __init__(self, m):
        super().__init__()
        self.linear = torch.nn.Linear(3, 3 * m, dtype=torch.float64)
        self.m = m

    def forward(self, t, y):
        x = torch.tanh(self.linear(y) + t[:, None])
        return x if self.m == 1 else x.reshape(-1, 3, self.m)


@pytest.mark.parametrize("noise", ["draws", "brownian"])
@pytest.mark.parametrize("noise_type", ["diagonal", "scalar", "general"])
@pytest.mark.parametrize("t", [[0.0, 0.35, 1.0], [1.0, 0.5, 0.2]])
def test_reversible_gradients_equal_autograd(noise_type, noise, t):
    torch.manual_seed(0)
    drift, diffusion = Net(1), Net(2 if noise_type == "general" else 1)
    y0 = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 4, 3, dtype=torch.float64)
    found = []
    for gradient in ("through", "adjoint"):
        ys = fastgen.sdeint(
            drift, diffusion, y0, t, method="reversible_heun", sde_type="stratonovich",
            noise_type=noise_type, dt=0.05, noise=noise, gradient=gradient, seed=5,
        )  # fmt: skip
        leaves = [y0, *drift.parameters(), *diffusion.parameters()]
        found.append((ys, *torch.autograd.grad((ys * weights).sum(), leaves)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_reversible_gradients_of_given_parameters():
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y0 = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)

    def solve(y0, a):
        return fastgen.sdeint(
            lambda t, y: torch.sin(a * y), g, y0, [0.0, 1.0], method="reversible_heun",
            sde_type="stratonovich", steps=4, gradient="adjoint", parameters=[a],
        )  # fmt: skip

    assert torch.autograd.gradcheck(solve, (y0, a))


def test_reversible_heun_reverses_to_rounding():
    y0 = torch.randn(5, 4, dtype=torch.float64)
    grid, places = grid_of(torch.tensor([0.0, 1.0], dtype=torch.float64), 1 / 200)
    equation = Equation(f, g, y0, "diagonal")
    source = Draws(y0.shape, torch.tensor([1]), torch.arange(5), y0.dtype)
    leap = Leap(equation, source, grid)
    _, y, x = leap.run(y0, places)
    assert (y - y0).abs().min() > 1e-3
    a, b = leap.evaluate(leap.steps, x)
    for n in reversed(range(leap.steps)):
        x, half = leap.leap(n, y, x, a, b, leap.noise(n), -1.0)
        a, b = leap.evaluate(n, x)
        y = leap.land(n, half, a, b, leap.noise(n), -1.0)
    torch.testing.assert_close(y, y0, rtol=0, atol=1e-12)


def test_reversible_gradients_need_the_memory_of_one_step():
    kept = []

    def pack(x):
        kept.append(x.numel())
        return x

    net, y0 = Net(1), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    counts = []
    for steps in (5, 50):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            fastgen.sdeint(
                net, net, y0, [0.0, 1.0], method="reversible_heun", steps=steps,
                sde_type="stratonovich", gradient="adjoint",
            )  # fmt: skip
        counts.append(sum(kept))
    assert counts[0] == counts[1] > 0
