"""Networks that change their input in place are refused, and callers' tensors kept."""

import pytest
import torch

import fastgen
from fastgen import schedules, solvers
from fastgen.integrations.k_diffusion import sampling as k_diffusion

SCHEDULE = schedules.LinearVP()
START = torch.tensor([[3.0, -3.0], [0.2, 5.0]])
changed = pytest.raises(ValueError, match="changed its input in place")


def pure(x, *times, **_):
    return 0.5 * x.clamp(-1, 1)


def inplace(x, *times, **_):
    return 0.5 * x.clamp_(-1, 1)


def sample(net, x, solver, dtype=None, **options):
    two = solvers.get(solver).two_times
    predicts = "average_velocity" if two else "noise"
    model = fastgen.Model(net, SCHEDULE, predicts, dtype=dtype)
    plan = fastgen.plan(solver, SCHEDULE, 3, start=0.9, end=0.1)
    kept = {k: options.pop(k) for k in ("guidance", "dtype") if k in options}
    return fastgen.Sampler(model, plan, **kept)(x, seed=1, **options)


@pytest.mark.parametrize("solver", solvers.names())
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float64], ids=str)
def test_every_solver(solver, dtype):
    x = START.clone()
    with changed:
        sample(inplace, x, solver, dtype)
    assert torch.equal(x, START)
    assert torch.isfinite(sample(pure, x, solver, dtype)).all()


MODEL = fastgen.Model(inplace, SCHEDULE, "noise")
RECTIFIED = fastgen.Model(inplace, schedules.Rectified(), "velocity")


def serve(x):
    batch = fastgen.Sampler(MODEL, fastgen.plan("ddim", SCHEDULE, 3)).serve((2, 2))
    batch.admit(x[0])
    batch.step()


ROUTES = {
    "differentiable": lambda x: sample(inplace, x, "ddim", differentiable=True),
    "checkpoint": lambda x: sample(inplace, x, "ddim", differentiable=True, checkpoint=True),
    "trajectory": lambda x: sample(inplace, x, "ddim", trajectory=True),
    "guided": lambda x: sample(inplace, x, "ddim", guidance=fastgen.Guidance(2.0)),
    "separately guided": lambda x: sample(
        inplace, x, "ddim", guidance=fastgen.Guidance(2.0, batched=False)
    ),
    "capture": lambda x: fastgen.Sampler(MODEL, fastgen.plan("ddim", SCHEDULE, 3)).capture((2, 2)),
    "serve": serve,
    "dopri5": lambda x: fastgen.sample(RECTIFIED, x, "dopri5"),
    "dpm_adaptive": lambda x: fastgen.sample(MODEL, x, "dpm_adaptive"),
    "invert": lambda x: fastgen.invert(RECTIFIED, x, steps=2),
    "predict": lambda x: MODEL.predict("data", x, 0.5),
    "odeint": lambda x: fastgen.odeint(lambda t, y: -inplace(y), x, [0.0, 1.0]),
    "odeint, fixed": lambda x: fastgen.odeint(
        lambda t, y: -inplace(y), x, [0.0, 1.0], method="rk4", step_size=0.25
    ),
    "odeint of two tensors": lambda x: fastgen.odeint(
        lambda t, y: (-inplace(y[0]), y[1]), (x, x), [0.0, 1.0]
    ),
    "odeint, jointly": lambda x: fastgen.odeint(
        lambda t, y: -inplace(y), x, [0.0, 1.0], step="joint"
    ),
    "sdeint, drift": lambda x: fastgen.sdeint(
        lambda t, y: -inplace(y), lambda t, y: 0 * y, x, [0.0, 1.0], steps=4
    ),
    "sdeint, diffusion": lambda x: fastgen.sdeint(
        lambda t, y: -y, lambda t, y: inplace(y), x, [0.0, 1.0], steps=4
    ),
    "k-diffusion": lambda x: k_diffusion.sample_euler(
        lambda x, s: inplace(x), x, torch.tensor([2.0, 1.0, 0.0]), disable=True
    ),
    "k-diffusion, adaptive": lambda x: k_diffusion.sample_dpm_adaptive(
        lambda x, s: inplace(x), x, 0.1, 2.0, disable=True
    ),
    "denoising": lambda x: fastgen.training.losses.denoising(MODEL, x),
}


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
def test_every_route(route, backend, monkeypatch):
    monkeypatch.setenv("FASTGEN_BACKEND", backend)
    x = START.clone()
    with changed:
        route(x)
    assert torch.equal(x, START)


def test_likelihoods():
    """Where gradients are recorded torch itself refuses."""
    x = START.clone()
    with pytest.raises((ValueError, RuntimeError), match="in-place operation"):
        fastgen.log_likelihood(RECTIFIED, x, divergence="hutchinson")
    assert torch.equal(x, START)


def test_in_inference_mode_functions_get_copies():
    """Nothing counts what is written to tensors there."""
    for method, options in (("rk4", {"step_size": 0.25}), ("dopri5", {})):
        options |= {"method": method}
        expected = fastgen.odeint(lambda t, y: -pure(y), START, [0.0, 1.0], **options)
        with torch.inference_mode():
            x = START.clone()
            found = fastgen.odeint(lambda t, y: -inplace(y), x, [0.0, 1.0], **options)
        assert torch.equal(found, expected)
        assert torch.equal(x, START)


def test_a_network_may_return_its_input_and_scale_its_time():
    def net(x, t):
        t.mul_(1000)
        return x

    model = fastgen.Model(net, SCHEDULE, "noise")
    same = fastgen.Model(lambda x, t: 1 * x, SCHEDULE, "noise")
    expected = fastgen.sample(same, START, "ddim", 3)
    assert torch.equal(fastgen.sample(model, START, "ddim", 3), expected)
