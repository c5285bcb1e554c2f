"""Error norms of the caller's own, and attempts."""

import pytest
import torch

import fastgen
from fastgen.ode import Execution

Y0 = torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.5, -1.0]], dtype=torch.float64)
FREQUENCY = torch.tensor([[1.0], [3.0], [8.0]], dtype=torch.float64)


def turning(t, y, rows=None):
    w = FREQUENCY if rows is None else FREQUENCY[rows]
    return torch.stack([-y[:, 1], y[:, 0]], 1) * w


def mean(e):
    return e.square().mean(-1).sqrt()


@pytest.mark.parametrize("step", ["per_sample", "joint"])
def test_the_usual_norm_as_a_function_takes_the_usual_steps(step):
    norm = mean if step == "per_sample" else lambda e: e.square().mean().sqrt()
    f = turning if step == "per_sample" else lambda t, y: turning(t, y)
    found = [
        fastgen.odeint(f, Y0, [0.0, 1.0], step=step, return_solution=True, norm=n)
        for n in (None, norm)
    ]
    for name in ("accepted", "rejected"):
        assert torch.equal(*(getattr(s.stats, name) for s in found))
    assert (found[0].ys - found[1].ys).abs().max() < 1e-12


def test_what_a_norm_leaves_out_is_not_controlled():
    """A rough quadrature beside the state costs no steps."""
    state = Y0, torch.zeros(3, 1, dtype=torch.float64)

    def f(t, y):
        return turning(t, y[0]), torch.sin(300 * t)[:, None]

    all_of_it, less = (
        fastgen.odeint(f, state, [0.0, 1.0], return_solution=True, norm=n, rtol=1e-8, atol=1e-8)
        for n in (None, lambda e: mean(e[0]))
    )
    assert (less.stats.accepted < all_of_it.stats.accepted).all()
    angle = FREQUENCY[:, 0]
    exact = Y0[:, 0] * torch.cos(angle) - Y0[:, 1] * torch.sin(angle)
    assert (less.ys[0][-1, :, 0] - exact).abs().max() < 1e-6


@pytest.mark.parametrize("gradient", ["through", "adjoint"])
def test_gradients_with_a_norm(gradient):
    rate = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    class Decay(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = rate

        def forward(self, t, y):
            return -self.rate * y

    y = fastgen.odeint(
        Decay(), Y0, [0.0, 1.0], norm=lambda e: e.abs().amax(-1), gradient=gradient, rtol=1e-8
    )
    (found,) = torch.autograd.grad(y[-1].sum(), rate)
    exact = -(Y0.sum() * torch.exp(-rate.detach()))
    assert abs(float(found - exact)) < 1e-5


def test_attempts_are_those_of_the_statistics():
    """Accepted sizes of a sample sum to its time; all of the others were refused."""
    seen = []
    found = fastgen.odeint(
        turning,
        Y0,
        [1.0, 0.0],
        first_step=0.9,
        return_solution=True,
        execution=Execution(on_attempt=seen.append),
    )
    for b in range(3):
        mine = [(a, int((a.samples == b).nonzero())) for a in seen if (a.samples == b).any()]
        taken = [(a, i) for a, i in mine if a.taken[i]]
        assert len(taken) == found.stats.accepted[b]
        assert len(mine) - len(taken) == found.stats.rejected[b]
        assert abs(sum(float(a.sizes[i]) for a, i in taken) - 1) < 1e-12
        assert float(mine[0][0].times[mine[0][1]]) == 1
    assert torch.equal(seen[0].state, Y0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"norm": 2.0}, TypeError, "norm"),
        ({"norm": lambda e: e}, ValueError, r"norm: expected one for each sample.*\(3,\)"),
        ({"norm": mean, "method": "rk4"}, ValueError, "norm: of the errors of varying steps"),
        ({"execution": {"on_attempt": 3}}, TypeError, "on_attempt"),
        ({"execution": {"on_attempt": print}, "method": "rk4"}, ValueError, "on_attempt"),
    ],
)
def test_refusals(options, error, message):
    given = dict(options)

    def solve():
        if "execution" in given:
            given["execution"] = Execution(**given["execution"])
        fastgen.odeint(turning, Y0, [0.0, 1.0], **given)

    with pytest.raises(error, match=message):
        solve()
