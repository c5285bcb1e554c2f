"""What the network is called with: which times, how often, their shape and dtype, and the state."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import fastgen
from fastgen import solvers
from fastgen.schedules import EDM, VE, CosineVP, DiscreteVP, LinearVP, Rectified, Trig

THOUSAND = DiscreteVP.linear(1000)


class Recorder:
    """A network that keeps what it is called with."""

    def __init__(self):
        self.states, self.times = [], []

    def __call__(self, x, t):
        self.states.append(x.clone())
        self.times.append(t.clone())
        return 0.3 * torch.tanh(x)


class RecordingModule(Recorder, nn.Module):
    """The same with parameters of a dtype."""

    def __init__(self, dtype):
        nn.Module.__init__(self)
        Recorder.__init__(self)
        self.weight = nn.Parameter(torch.full((), 0.3, dtype=dtype))

    def __call__(self, x, t):
        super().__call__(x, t)
        return self.weight.detach() * x


def run(
    solver,
    schedule,
    predicts="velocity",
    *,
    batch=3,
    net=None,
    dtype=torch.float64,
    model=None,
    **options,
):
    """Sample with a recorder; gives the recorder and the plan."""
    net = net or Recorder()
    model = {"time_dtype": torch.float64} if model is None else model
    built = fastgen.Model(net, schedule, predicts, **model)
    plan = fastgen.plan(solver, schedule, predicts=predicts, **options)
    fastgen.Sampler(built, plan, dtype=dtype)((batch, 4), seed=1, data=torch.zeros(1, 4))
    return net, plan


def pairs(times):
    return list(pairwise(times))


def rk4_nodes(s, t):
    return [s, (s + t) / 2, (s + t) / 2, t]


# Every evaluation of a step from s to t > 0 on a schedule that is regular everywhere.
NODES = {
    "adams_bashforth": lambda s, t: [s],
    "annealed_langevin": lambda s, t: [s] * 5,
    "ddim": lambda s, t: [s],
    "ddpm": lambda s, t: [s],
    "dpmpp_2m": lambda s, t: [s],
    "euler": lambda s, t: [s],
    "euler_ancestral": lambda s, t: [s],
    "heun": lambda s, t: [s, t],
    "predictor_corrector": lambda s, t: [s, t],
    "rk4": rk4_nodes,
}


@pytest.mark.parametrize("solver", NODES)
@pytest.mark.parametrize(
    "schedule", [Rectified(), LinearVP(), EDM()], ids=lambda s: type(s).__name__
)
def test_exact_stage_nodes(solver, schedule, backend):
    times = [0.9, 0.64, 0.37, 0.11]
    model = fastgen.Model(net := Recorder(), schedule, "data", time_dtype=torch.float64)
    plan = fastgen.plan(solver, schedule, timesteps=times)
    fastgen.Sampler(model, plan, dtype=torch.float64, backend=backend)((3, 4))
    wanted = [node for s, t in pairs(times) for node in NODES[solver](s, t)]
    assert [float(t[0]) for t in net.times] == pytest.approx(wanted, rel=1e-15, abs=0)
    assert plan.nfe == len(wanted)


@pytest.mark.parametrize(
    ("solver", "schedule", "last"),
    [
        # the velocity exists at t = 0: Rectified, and Trig, whose sigma' is finite there
        ("heun", Rectified(), [0.5, 0.0]),
        ("rk4", Rectified(), [0.5, 0.25, 0.25, 0.0]),
        ("rk4", Trig(), [0.5, 0.25, 0.25, 0.0]),
        # sigma' is infinite at t = 0, or networks are not defined there: one exponential step
        ("heun", LinearVP(), [0.5]),
        ("rk4", CosineVP(), [0.5]),
        ("heun", EDM(), [0.5]),
        ("rk4", VE(), [0.5]),
        ("euler", LinearVP(), [0.5]),
        ("adams_bashforth", LinearVP(), [0.5]),
        # the denoising step after the Langevin steps is one more evaluation
        ("annealed_langevin", VE(), [0.5] * 6),
        # no corrector at sigma = 0
        ("predictor_corrector", VE(), [0.5]),
        ("ddim", VE(), [0.5]),
        ("ddpm", VE(), [0.5]),
        ("dpmpp_2m", VE(), [0.5]),
        ("euler_ancestral", VE(), [0.5]),
    ],
)
def test_nodes_of_the_step_to_data(solver, schedule, last):
    net, plan = run(solver, schedule, timesteps=[0.8, 0.5, 0.0])
    found = [float(t[0]) for t in net.times]
    assert found[-len(last) :] == last
    assert found[: -len(last)] == pytest.approx(NODES[solver](0.8, 0.5), rel=1e-15)
    assert len(found) == plan.nfe


def test_options_that_add_evaluations():
    net, _ = run("predictor_corrector", VE(), timesteps=[0.8, 0.5, 0.2], corrector_steps=3)
    assert [float(t[0]) for t in net.times] == [0.8, 0.5, 0.5, 0.5, 0.5, 0.2, 0.2, 0.2]
    net, _ = run("annealed_langevin", VE(), timesteps=[0.8, 0.5], corrector_steps=2)
    assert [float(t[0]) for t in net.times] == [0.8, 0.8]
    net, _ = run("adams_bashforth", Rectified(), timesteps=[0.8, 0.5, 0.2, 0.1], order=3)
    assert [float(t[0]) for t in net.times] == [0.8, 0.5, 0.2]


@pytest.mark.parametrize("solver", [n for n in solvers.names() if not solvers.get(n).two_times])
@pytest.mark.parametrize("batch", [1, 3])
def test_number_shape_dtype_and_device_of_the_calls(solver, batch):
    """Every solver there is: exactly plan.nfe calls with one float32 time per sample."""
    net, plan = run(
        solver,
        LinearVP(),
        "noise",
        batch=batch,
        model={},
        steps=4,
        start=0.9,
        end=0.1,
        dtype=torch.float32,
    )
    assert len(net.times) == plan.nfe >= 4
    for t, x, e in zip(net.times, net.states, plan.evaluations, strict=True):
        assert t.shape == (batch,)
        assert t.dtype == torch.float32
        assert t.device == x.device == torch.device("cpu")
        assert x.dtype == torch.float32
        assert x.shape == (batch, 4)
        assert t.tolist() == [torch.tensor(e.time, dtype=torch.float32).item()] * batch


TIME_INPUTS = [
    ("unit", LinearVP(), {}, lambda s, t: t),
    ("unit", Rectified(), {"data_at": 1}, lambda s, t: 1 - t),
    ("sigma", LinearVP(), {}, lambda s, t: s.sigma(t) / s.alpha(t)),
    ("sigma", EDM(), {}, lambda s, t: 80 * t),
    ("log_snr", CosineVP(), {}, lambda s, t: 2 * math.log(s.alpha(t) / s.sigma(t))),
    ("log_snr", Rectified(), {"data_at": 1}, lambda s, t: 2 * math.log((1 - t) / t)),
    ("edm", EDM(), {}, lambda s, t: math.log(80 * t) / 4),
    ("edm", Rectified(), {}, lambda s, t: math.log(t / (1 - t)) / 4),
    ("index", THOUSAND, {}, lambda s, t: 1000 * t - 1),
    (lambda t: 1000 * t + 3, LinearVP(), {}, lambda s, t: 1000 * t + 3),
    (lambda t: 1000 * t, Rectified(), {"data_at": 1}, lambda s, t: 1000 * t),
]


@pytest.mark.parametrize(("time_input", "schedule", "more", "wanted"), TIME_INPUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_time_inputs(time_input, schedule, more, wanted, dtype):
    net, plan = run(
        "heun",
        schedule,
        timesteps=[0.9, 0.6, 0.3],
        model={"time_input": time_input, "time_dtype": dtype, **more},
    )
    assert [e.time for e in plan.evaluations] == [0.9, 0.6, 0.6, 0.3]
    for t, at in zip(net.times, [0.9, 0.6, 0.6, 0.3], strict=True):
        assert t.dtype == dtype
        precision = 1e-6 if dtype == torch.float32 else 1e-13
        assert t.tolist() == pytest.approx([wanted(schedule, at)] * 3, rel=precision, abs=1e-13)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_whole_indices_as_int64(spacing):
    net, _ = run(
        "ddim",
        THOUSAND,
        "noise",
        timesteps=spacing,
        steps=7,
        model={"time_input": "index", "time_dtype": torch.int64},
    )
    wanted = {
        "leading": [142 * i for i in reversed(range(7))],
        "linspace": [999, 832, 666, 500, 333, 166, 0],
        "trailing": [999, 856, 713, 570, 428, 285, 142],
    }[spacing]
    assert all(t.dtype == torch.int64 and t.shape == (3,) for t in net.times)
    assert [t.tolist() for t in net.times] == [[i] * 3 for i in wanted]


def test_times_that_are_not_whole_are_refused_before_the_first_call():
    for options in (
        {"solver": "rk4", "timesteps": "trailing", "steps": 3},
        {"solver": "ddim", "timesteps": "uniform", "steps": 7},
    ):
        net = Recorder()
        with pytest.raises(ValueError, match=r"the network's time .* is not whole"):
            run(
                schedule=THOUSAND,
                net=net,
                **options,
                model={"time_input": "index", "time_dtype": torch.int64},
            )
        assert net.times == []


def test_infinite_times_are_refused_before_the_first_call():
    net = Recorder()
    with pytest.raises(ValueError, match=r"time_input='log_snr' is -inf at t=1.0"):
        run("euler", Rectified(), net=net, steps=4, model={"time_input": "log_snr"})
    with pytest.raises(ValueError, match=r"time_input='sigma' is inf at t=1.0"):
        run("euler", Rectified(), net=net, steps=4, model={"time_input": "sigma"})
    assert net.times == []


@pytest.mark.parametrize("network_dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.float64])
def test_the_network_is_fed_its_own_dtype(network_dtype, state_dtype, backend):
    """The state is rounded on its way into the network only, never itself."""
    net = RecordingModule(network_dtype)
    model = fastgen.Model(net, LinearVP(), "noise")
    plan = fastgen.plan("heun", LinearVP(), timesteps=[0.9, 0.5, 0.2])
    x, states = fastgen.Sampler(model, plan, dtype=state_dtype, backend=backend)(
        (3, 4), seed=2, trajectory=True
    )
    assert x.dtype == states.dtype == state_dtype
    assert {s.dtype for s in net.states} == {network_dtype}
    assert {t.dtype for t in net.times} == {torch.float32}
    torch.testing.assert_close(net.states[0], states[0].to(network_dtype), rtol=0, atol=0)
    torch.testing.assert_close(net.states[2], states[1].to(network_dtype), rtol=0, atol=0)
    if network_dtype != state_dtype:
        assert (states[1] != states[1].to(network_dtype)).any()


@pytest.mark.parametrize("asked", [None, torch.bfloat16, torch.float64])
def test_dtype_of_networks_without_parameters(asked):
    net, _ = run("ddim", LinearVP(), steps=2, model={"dtype": asked}, dtype=torch.float32)
    assert {x.dtype for x in net.states} == {asked or torch.float32}


@pytest.mark.parametrize("network_dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "schedule", [EDM(), LinearVP(), Rectified()], ids=lambda s: type(s).__name__
)
def test_edm_networks_are_fed_the_state_times_c_in(schedule, network_dtype, backend):
    """c_in = 1 / sqrt(sigma^2 + sigma_data^2) on x / alpha, at every evaluation."""
    net, times = RecordingModule(network_dtype), [0.9, 0.5, 0.2, 0.1]
    model = fastgen.Model(net, schedule, "edm", sigma_data=0.7, time_input="edm")
    plan = fastgen.plan("ddim", schedule, timesteps=times)
    _, states = fastgen.Sampler(model, plan, dtype=torch.float64, backend=backend)(
        (3, 4), seed=2, trajectory=True
    )
    for fed, state, t in zip(net.states, states, times, strict=False):
        r = schedule.sigma(t) / schedule.alpha(t)
        wanted = state / schedule.alpha(t) / math.sqrt(r**2 + 0.49)
        tolerance = {torch.bfloat16: 2**-8, torch.float32: 2**-22}.get(network_dtype, 1e-14)
        assert fed.dtype == network_dtype
        torch.testing.assert_close(fed.double(), wanted, rtol=tolerance, atol=0)
    assert len(net.states) == 3


def test_a_network_that_changes_its_times_does_not_change_the_next_run():
    """`t *= 1000` in a network is in place."""

    def rude(x, t):
        seen.append(t.clone())
        t *= 1000
        return x

    seen = []
    model = fastgen.Model(rude, LinearVP(), "noise")
    sampler = fastgen.Sampler(model, fastgen.plan("ddim", LinearVP(), steps=3))
    first, second = sampler((2, 3)), sampler((2, 3))
    assert [t.tolist() for t in seen[:3]] == [t.tolist() for t in seen[3:]]
    torch.testing.assert_close(first, second, rtol=0, atol=0)
