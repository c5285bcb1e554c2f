"""Error-controlled steps that are recorded once and replayed."""

import math

import pytest
import torch

import fastgen
from fastgen.common import graphs
from fastgen.ode import engine
from tests.support.tape import Tape

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


WEIGHT = torch.ones(3, requires_grad=True)


def van_der_pol(t, y):
    x, v = y[..., 0], y[..., 1]
    return torch.stack([v, 4 * (1 - x * x) * v - x], -1)


class Noting:
    """C++ steps, whose operations a running tape notes."""

    def __init__(self, operations, tapes):
        self.operations, self.tapes = operations, tapes

    def __getattr__(self, name):
        method = getattr(self.operations, name)
        if name not in ("take", "stage", "control", "commit"):
            return method

        def call(*args):
            method(*args)
            for tape in self.tapes:
                if tape.recording:
                    tape.entries.append((method, args, {}, None))

        return call


class Recorder(Tape):
    """A tape that knows whether it runs, and how often it was replayed."""

    def __init__(self):
        super().__init__()
        self.recording, self.replays = False, 0

    def record(self, work):
        self.recording = True
        super().record(work)
        self.recording = False

    def replay(self):
        self.replays += 1
        super().replay()


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    """A device, and the recordings that were made on it (on a CPU no Python code runs again)."""
    tapes = []
    if request.param == "cpu":

        def recording(device):
            tapes.append(Recorder())
            return tapes[-1]

        original = engine.operations
        monkeypatch.setattr(graphs, "recording", recording)
        monkeypatch.setattr(
            engine, "operations", lambda *arguments: Noting(original(*arguments), tapes)
        )
    return torch.device(request.param), tapes


def test_an_attempt_that_was_broken_off_is_made_again(monkeypatch):
    """Which left the inputs of later stages where a step's first was."""
    calls = []

    def f(t, y):
        calls.append(1)
        if len(calls) == 6:
            raise RuntimeError("read back")
        return van_der_pol(t, y)

    def warm_up(work, device, runs):
        with pytest.raises(RuntimeError, match="read back"):
            work()
        work()
        return "not here"

    y0, t = torch.tensor([[1.0, 0.5]]).double(), torch.tensor([0.0, 1.0]).double()
    wanted = fastgen.odeint(van_der_pol, y0, t, method="dopri5", rtol=1e-6)
    monkeypatch.setattr(engine, "warm_up", warm_up)
    with pytest.warns(RuntimeWarning, match="not here"):
        found = fastgen.odeint(f, y0, t, method="dopri5", rtol=1e-6, capture=True)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3"])
def test_replayed_steps_are_the_steps(device, method, monkeypatch):
    monkeypatch.setattr(engine, "FAR", math.inf)  # no evaluation but those of steps
    device, tapes = device
    generator = torch.Generator().manual_seed(1)
    y0 = (2 * torch.randn(7, 2, generator=generator, dtype=torch.float64)).to(device)
    t = torch.tensor([0.0, 0.4, 1.5, 3.0], device=device)
    calls = []

    def f(t, y):
        calls.append(len(y))
        return van_der_pol(t, y)

    options = {"method": method, "rtol": 1e-6, "atol": 1e-6, "return_solution": True}
    plain = fastgen.odeint(f, y0, t, **options)
    assert len(calls) == plain.stats.calls
    calls.clear()
    found = fastgen.odeint(f, y0, t, capture=True, **options)
    assert torch.equal(found.ys, plain.ys)
    assert torch.equal(found.stats.accepted, plain.stats.accepted)
    assert torch.equal(found.stats.rejected, plain.stats.rejected)
    stages = {"dopri5": 6, "tsit5": 6, "bosh3": 3}[method]
    assert len(calls) == 2 + 2 * stages  # the first step's size, the warm-up, the recording
    assert found.stats.rows == 7 * found.stats.calls
    if device.type == "cuda":
        assert found.stats.calls == plain.stats.calls
    else:  # what a tape records is done, too
        (tape,) = tapes
        assert 2 + stages * (tape.replays + 1) == found.stats.calls
        assert found.stats.calls + stages == plain.stats.calls


def test_samples_and_likelihoods_are_the_same(device):
    device, _ = device
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.SiLU(), torch.nn.Linear(16, 2))
    net = net.to(device).requires_grad_(False)
    model = fastgen.Model(
        lambda x, t: net(torch.cat([x, t[:, None]], 1)), fastgen.schedules.Rectified(), "velocity"
    )
    x = fastgen.randn((6, 2), seed=2, device=device)
    options = {"solver": "dopri5", "rtol": 1e-4, "atol": 1e-4}
    # Fewer rows to a matrix product may round otherwise, so compare to the order of that.
    torch.testing.assert_close(
        fastgen.sample(model, x, capture=True, **options), fastgen.sample(model, x, **options)
    )
    if device.type == "cpu":  # a tape cannot note what autograd calls
        return
    found = fastgen.log_likelihood(model, x, divergence="hutchinson", capture=True)
    torch.testing.assert_close(found, fastgen.log_likelihood(model, x, divergence="hutchinson"))


def test_a_function_that_reads_values_back_runs_eagerly(device):
    device, _ = device
    y0 = torch.ones(3, 2, dtype=torch.float64, device=device)

    def f(t, y):
        return y * -1.0 if float(y.sum()) < 1e9 else y

    with pytest.warns(RuntimeWarning, match="the step of odeint could not be captured"):
        found = fastgen.odeint(f, y0, [0.0, 2.0], capture=True)
    assert torch.equal(found, fastgen.odeint(f, y0, [0.0, 2.0]))


@pytest.mark.parametrize(
    "options",
    [
        {"method": "rk4"},
        {"event": lambda t, y: y[:, 0] - 0.5},
        {"y0": torch.ones(2, 3, requires_grad=True)},
        {"f": lambda t, y: -WEIGHT * y},
    ],
)
def test_what_cannot_be_captured_is_refused(options):
    call = {"f": lambda t, y: -y, "y0": torch.ones(2, 3)} | options
    with pytest.raises(ValueError, match="capture=True"):
        fastgen.odeint(call.pop("f"), call.pop("y0"), [0.0, 1.0], capture=True, **call)
