"""`Sampler.capture`: replays with other seeds, coefficients and conditioning equal eager runs.

On the CPU a tape (tests/support/tape.py) stands in for the CUDA graph: like one it repeats
operations on fixed memory without running Python code. Where there is a GPU the same tests run on
real graphs.
"""

import pytest
import torch
from torch import nn

import fastgen
from fastgen import schedules
from fastgen.common import graphs
from fastgen.kernels import dispatch
from fastgen.model import dynamic_threshold
from tests.support.tape import Noting, Tape

SCHEDULE = schedules.LinearVP()
SOLVERS = [n for n in fastgen.solvers.names() if not fastgen.solvers.get(n).two_times]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
ON_DEVICES = ("ddim", "ddpm", "euler", "heun", "dpmpp_2m", "unipc", "rk4", "predictor_corrector")
SHAPE = (3, 2, 5)


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    """A device whose recordings run no Python code when they are replayed."""
    if request.param == "cpu":
        tapes = []

        def recording(device):
            tapes.append(Tape())
            return tapes[-1]

        idle = Tape()  # calls before a recording are nobody's
        noting = Noting(lambda: tapes[-1] if tapes else idle)
        monkeypatch.setattr(graphs, "recording", recording)
        monkeypatch.setattr(dispatch, "find", noting.find)
    return torch.device(request.param)


def network(x, t, shift=None, **_):
    shape = (-1, *[1] * (x.ndim - 1))
    y = torch.tanh(x + 0.3) * (0.5 + t.reshape(shape).to(x.dtype))
    return y if shift is None else y + shift.reshape(-1, *[1] * (x.ndim - 1))


def make(solver="ddpm", steps=4, net=network, predicts="noise", schedule=SCHEDULE, **options):
    own = {k: options.pop(k) for k in ("guidance", "transform", "noise", "dtype") if k in options}
    model = fastgen.Model(net, schedule, predicts, **options.pop("model", {}))
    plan = fastgen.plan(solver, schedule, steps, **{"start": 0.9} | options)
    return fastgen.Sampler(model, plan, **own)


@pytest.mark.parametrize("solver", SOLVERS)
def test_replay_with_another_seed_state_and_grid_equals_an_eager_run(solver, device):
    if device.type == "cuda" and solver not in ON_DEVICES:
        pytest.skip("a device compiles for a second; its graphs differ in nothing else")
    sampler = make(solver)
    captured = sampler.capture(SHAPE, device=device)
    assert captured.graphed
    for seed in (3, [1, 2, 2**64 - 1]):
        expected = sampler(SHAPE, seed=seed, device=device)
        assert torch.equal(captured(seed=seed), expected)
    ids = [4, 0, 2**40]
    expected = sampler(SHAPE, seed=5, sample_ids=ids, device=device)
    first = captured(seed=5, sample_ids=ids)
    assert torch.equal(first, expected)
    x = torch.randn(SHAPE, device=device)
    assert torch.equal(captured(x, seed=6), sampler(x, seed=6))
    assert torch.equal(first, expected)  # results are not overwritten


@pytest.mark.parametrize(
    "solver", ["ddim", "euler", "heun", "dpmpp_2m", "dpmpp_3m", "unipc", "ddpm", "euler_ancestral"]
)
@pytest.mark.parametrize("noise", ["draws", "brownian"])
def test_replay_with_another_plan_equals_an_eager_run(solver, noise, device):
    sampler = make(solver, noise=noise)
    captured = sampler.capture(SHAPE, device=device)
    before = captured(seed=2)
    for options in ({"timesteps": "log_snr"}, {"start": 0.7}):
        other = make(solver, noise=noise, **options)
        captured.exchange(other.plan)
        expected = other(SHAPE, seed=2, device=device)
        assert torch.equal(captured(seed=2), expected)
        assert not torch.equal(before, expected)
    captured.exchange(sampler.plan)
    assert torch.equal(captured(seed=2), before)


def test_input_scaling_and_casting(device):
    schedule = schedules.EDM()
    layer = nn.Linear(5, 5).to(device, torch.bfloat16)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, t):
            t.mul_(0.5)  # times belong to the network
            return self.layer(x) * t[:, None, None].to(x.dtype)

    options = {"net": Net(), "predicts": "edm", "schedule": schedule, "start": 1.0}
    options["model"] = {"time_input": "edm"}
    sampler = make("dpmpp_2m", **options)
    captured = sampler.capture(SHAPE)
    other = make("dpmpp_2m", timesteps="karras", rho=3.0, **options)
    for s in (sampler, other):
        captured.exchange(s.plan)
        for seed in (0, 1):
            assert torch.equal(captured(seed=seed), s(SHAPE, seed=seed))


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("per_sample", [True, False])
def test_guidance_scale_and_conditioning_are_replaced(batched, per_sample, device):
    none = torch.zeros(3, device=device)
    scale = torch.tensor([1.0, 2.5, 4.0]) if per_sample else 2.5

    def guided(scale):
        guidance = fastgen.Guidance(scale, {"shift": none}, interval=(0.2, 0.8), batched=batched)
        return make("dpmpp_2m", guidance=guidance, predicts="data")

    first = torch.tensor([0.1, 0.2, 0.3], device=device)
    second = torch.tensor([1.0, -1.0, 0.5], device=device)
    sampler = guided(scale)
    captured = sampler.capture(SHAPE, device=device, shift=first)
    results = []
    for shift in (first, second):
        results.append(captured(seed=1, shift=shift))
        assert torch.equal(results[-1], sampler(SHAPE, seed=1, device=device, shift=shift))
    assert not torch.equal(*results)
    assert torch.equal(captured(seed=1), results[-1])  # what is left out stays
    assert torch.equal(first, torch.tensor([0.1, 0.2, 0.3], device=device))
    captured.exchange(scale=scale * 2)
    expected = guided(scale * 2)(SHAPE, seed=1, device=device, shift=second)
    assert torch.equal(captured(seed=1), expected)
    assert not torch.equal(expected, results[-1])
    with pytest.raises(ValueError, match="scale: expected one like"):
        captured.exchange(scale=2.0 if per_sample else scale * torch.ones(3))


def test_nested_arguments(device):
    def net(x, t, extra, name):
        assert name == "a"
        return network(x, t) + extra["bias"] * extra["parts"][1]

    sampler = make("ddim", net=net)

    def extra(value):
        parts = (torch.full((5,), value, device=device), torch.ones(5, device=device) * value)
        return {"bias": torch.tensor(value, device=device), "parts": parts}

    captured = sampler.capture(SHAPE, device=device, extra=extra(1.0), name="a")
    for value in (1.0, 3.0):
        expected = sampler(SHAPE, seed=1, device=device, extra=extra(value), name="a")
        assert torch.equal(captured(seed=1, extra=extra(value), name="a"), expected)
    with pytest.raises(TypeError, match=r"'extr'.*mean 'extra'"):
        captured(extr=1)
    with pytest.raises(ValueError, match="name: 'a' is built into"):
        captured(name="b")
    with pytest.raises(ValueError, match="extra: expected the structure"):
        captured(extra={})
    bad = extra(1.0) | {"bias": torch.ones(2, device=device)}
    with pytest.raises(ValueError, match=r"extra: expected a tensor torch.float32 \(\) .*\(2,\)"):
        captured(extra=bad)
    with pytest.raises(ValueError, match=r"x: expected shape \(3, 2, 5\)"):
        captured(torch.ones(2, 2, 5))


def test_plans_of_another_structure_are_refused(device):
    captured = make("dpmpp_2m").capture(SHAPE, device=device)
    for other in (make("dpmpp_2m", steps=5), make("ddpm"), make("dpmpp_2m", clip=(-1, 1))):
        with pytest.raises(ValueError, match="does not fit the captured 'dpmpp_2m' with 4"):
            captured.exchange(other.plan)
    with pytest.raises(ValueError, match="has no guidance"):
        captured.exchange(scale=2.0)


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "predictor_corrector", "step_rule": "norm"},
        {"solver": "dpmpp_2m", "transform": dynamic_threshold()},
    ],
)
def test_numbers_outside_of_tables_cannot_be_exchanged(options, device):
    sampler = make(**options)
    captured = sampler.capture(SHAPE, device=device)
    assert torch.equal(captured(seed=4), sampler(SHAPE, seed=4, device=device))
    same = make(**options)
    captured.exchange(same.plan)
    other = make(**options, timesteps="log_snr")
    with pytest.raises(ValueError, match="does not fit"):
        captured.exchange(other.plan)


def test_a_network_that_reads_values_back_runs_eagerly_and_says_so(device):
    def net(x, t):
        return network(x, t) * (2.0 if x.sum().item() > 0 else 1.0)

    sampler = make("ddpm", net=net)
    with pytest.warns(RuntimeWarning, match=r"could not be captured .*\.item\(\)"):
        captured = sampler.capture(SHAPE, device=device)
    assert not captured.graphed
    for seed in (1, 2):
        expected = sampler(SHAPE, seed=seed, device=device)
        assert torch.equal(captured(seed=seed), expected)
    other = make("ddpm", net=net, timesteps="log_snr")
    captured.exchange(other.plan)
    assert torch.equal(captured(seed=3), other(SHAPE, seed=3, device=device))


def test_a_broken_network_is_an_error():
    with pytest.raises(ValueError, match="net: expected a real tensor"):
        make(net=lambda x, t: x[:, :1]).capture(SHAPE)


def test_without_a_gpu_the_loop_is_repeated():
    sampler = make("dpmpp_2m")
    captured = sampler.capture(SHAPE, device="cpu")
    assert not captured.graphed
    assert torch.equal(captured(seed=4), sampler(SHAPE, seed=4))
    other = make("dpmpp_2m", timesteps="log_snr")
    captured.exchange(other.plan)
    assert torch.equal(captured(seed=4), other(SHAPE, seed=4))


@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.gpu])]
)
def test_compiled_network(backend, device):
    layer = nn.Linear(5, 5).to(device)
    net = torch.compile(lambda x, t: torch.tanh(layer(x)) * t[:, None, None], backend=backend)
    sampler = make("dpmpp_2m", net=net)
    captured = sampler.capture(SHAPE, device=device)
    assert captured.graphed
    for seed in (1, 2):
        assert torch.equal(captured(seed=seed), sampler(SHAPE, seed=seed, device=device))
