"""Callbacks of `odeint_adjoint`, on the way there and back."""

import pytest
import torch
from torch import nn

from fastgen.integrations import torchdiffeq as mine


@pytest.mark.parametrize("times", [[0.0, 1.0], [1.0, 0.0]])
def test_callbacks_of_the_adjoint_on_both_ways(times):
    """The same calls as torchdiffeq's: times, states, lengths."""
    peer = pytest.importorskip("torchdiffeq")

    class Heard(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(-0.5, dtype=torch.float64))
            self.forth, self.back = [], []

        def forward(self, t, y):
            return self.rate * y

        def callback_step(self, t, y, dt):
            self.forth.append((float(t), float(y.sum()), float(dt)))

        def callback_step_adjoint(self, t, state, dt):
            self.back.append((float(t), *(float(s.sum()) for s in state[1:]), float(dt)))

    calls = []
    for library in (peer, mine):
        f, y0 = Heard(), torch.ones(2, dtype=torch.float64, requires_grad=True)
        t = torch.tensor(times, dtype=torch.float64)
        ys = library.odeint_adjoint(f, y0, t, method="rk4", options={"step_size": 0.1})
        ys[-1].sum().backward()
        calls.append((torch.tensor(f.forth), torch.tensor(f.back), f.rate.grad))
    theirs, own = calls
    theirs[1][:, 0].abs_()  # on the way back from 0 to 1 it tells the negative times
    for ours, other in zip(own, theirs, strict=True):
        assert ours.shape == other.shape
        assert (ours - other).abs().max() < 1e-6
    assert len(own[0]) == len(own[1]) == 10


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
@pytest.mark.parametrize("single", [True, False])
def test_callbacks_of_varying_steps_on_both_ways(method, single):
    """Each attempt is told once; the accepted ones join to the whole interval."""

    class Heard(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))
            self.told = {}
            for name in ("step", "accept_step", "reject_step"):
                for way in ("", "_adjoint"):
                    self.told[name + way] = kept = []
                    setattr(
                        self, f"callback_{name}{way}", lambda *seen, kept=kept: kept.append(seen)
                    )

        def forward(self, t, y):
            slope = torch.sin(9 * t) * self.rate
            return slope * y if single else (slope * y[0], -y[1].tanh())

    f = Heard()
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    state = y0 if single else (y0, torch.ones(1, 3, dtype=torch.float64))
    t = torch.tensor([0.5, 2.0], dtype=torch.float64)
    ys = mine.odeint_adjoint(f, state, t, method=method, rtol=1e-5, atol=1e-5)
    (ys if single else ys[0])[-1].sum().backward()
    # y(t) = exp(rate int sin 9 s ds)
    area = (torch.cos(9 * t[0]) - torch.cos(9 * t[1])) / 9
    exact = torch.exp(f.rate.detach() * area)
    assert abs(float(y0.grad[0] / exact - 1)) < 1e-3
    assert abs(float(f.rate.grad / (2 * exact * area) - 1)) < 1e-3
    for way, begin, end in (("", 0.5, 2.0), ("_adjoint", 2.0, 0.5)):
        tried, taken, refused = (f.told[n + way] for n in ("step", "accept_step", "reject_step"))
        assert len(tried) == len(taken) + len(refused)
        assert refused
        assert float(taken[0][0]) == begin
        sizes = torch.stack([dt for _, _, dt in taken])
        assert abs(float(sizes.sum()) - abs(end - begin)) < 1e-12
    seen = f.told["step"][0][1]
    assert (seen if single else seen[0]).shape == (2,)
    zero, y, a, *gradients = f.told["step_adjoint"][0][1]
    assert float(zero) == 0
    assert y.shape == a.shape == ((2,) if single else (5,))
    assert [g.shape for g in gradients] == [()]


def test_callbacks_are_called_beside_a_jump():
    class Told(torch.nn.Module):
        calls = 0

        def forward(self, t, y):
            return torch.where(t < 0.5, 1.0, -2.0).to(y) + 0 * y

        def callback_accept_step(self, t, y, size):
            self.calls += 1

    field = Told()
    options = {"jump_t": torch.tensor([0.5])}
    mine.odeint(field, torch.zeros(1), torch.tensor([0.0, 1.0]), options=options)
    assert field.calls > 1
