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
    with pytest.warns(UserWarning, match="callback_step") as heard:
        mine.odeint_adjoint(Heard(), y0, t)
    assert any("callback_step_adjoint" in str(warning.message) for warning in heard)
