"""Functions that draw random numbers end error-controlled solves at once, with the remedy."""

import pytest
import torch

import fastgen
import fastgen.integrations.torchdiffeq as torchdiffeq
from fastgen.common.repeats import FIRST_LOOK
from fastgen.schedules import CosineVP, Rectified

SAYS = r"evaluated twice at the same time and state of sample \d.*call its eval\(\)"


def network():
    torch.manual_seed(0)
    layers = torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Dropout(0.1), torch.nn.Linear(64, 8)
    return torch.nn.Sequential(*layers)


def model(net, schedule=None, predicts="velocity"):
    return fastgen.Model(lambda x, t: net(x), schedule or Rectified(), predicts)


def field(net):
    return lambda t, y: net(y.float()).to(y.dtype)


X = torch.linspace(-1, 1, 24).reshape(3, 8)
SOLVES = {
    "dpm_adaptive": lambda net: fastgen.sample(
        model(net, CosineVP(), "noise"), X, "dpm_adaptive", rtol=1e-3, atol=1e-3, start=0.99
    ),
    "joint": lambda net: fastgen.odeint(field(net), X, [0.0, 1.0], step="joint"),
    "log_likelihood": lambda net: fastgen.log_likelihood(model(net), X),
    "odeint": lambda net: fastgen.odeint(field(net), X, [0.0, 1.0]),
    "odeint_of_a_tuple": lambda net: fastgen.odeint(
        lambda t, y: (field(net)(t, y[0]), y[1]), (X, X), [0.0, 1.0]
    )[0],
    "reference": lambda net: fastgen.odeint(field(net), X, [0.0, 1.0], backend="reference"),
    "sample": lambda net: fastgen.sample(model(net), X, "dopri5", rtol=1e-5, atol=1e-5),
    "sdeint": lambda net: fastgen.sdeint(
        field(net),
        lambda t, y: 0.01 * torch.ones_like(y),
        X,
        [0.0, 1.0],
        adaptive=fastgen.sde.Adaptive(rtol=1e-4, atol=1e-4),
        noise=fastgen.BrownianPath((3, 8), seed=3),
    ),
    "torchdiffeq": lambda net: torchdiffeq.odeint(field(net), X, torch.tensor([0.0, 1.0])),
}


@pytest.mark.parametrize("name", SOLVES)
def test_dropout_is_named_and_without_it_the_solve_ends(name):
    net = network()
    with pytest.raises((RuntimeError, ValueError), match=SAYS):
        SOLVES[name](net)
    assert torch.isfinite(SOLVES[name](net.eval())).all()


def test_rounding_that_differs_is_tolerated():
    """As on a GPU, where sums are taken in any order."""
    count = [0]

    def f(t, y):
        count[0] += 1
        return torch.cos(40 * t)[:, None] * (1 + 2**-20 * (count[0] % 2)) - y

    found = fastgen.odeint(f, X, [0.0, 9.0], rtol=1e-4, atol=1e-4, return_solution=True)
    assert count[0] == found.stats.calls > 2 * FIRST_LOOK


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_states_of_any_shape_are_looked_at(shape):
    """With a single axis and with several, in solves that are long enough to be looked at."""
    x, calls = fastgen.randn((2, *shape), seed=1), []

    def net(x, t):
        calls.append(t)
        return torch.tanh(x)

    model = fastgen.Model(net, CosineVP(), "noise")
    found = fastgen.sample(model, x, "dpm_adaptive", rtol=1e-6, atol=1e-6, start=0.99)
    assert torch.isfinite(found).all()
    assert len(calls) > FIRST_LOOK
    motion = fastgen.BrownianPath((2, *shape), seed=3)
    control = fastgen.sde.Adaptive(rtol=1e-4, atol=1e-4)
    options = {"adaptive": control, "noise": motion}
    found = fastgen.sdeint(lambda t, y: -y, lambda t, y: 0.1 * y, x, [0.0, 1.0], **options)
    assert torch.isfinite(found).all()
