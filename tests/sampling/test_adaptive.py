"""Sampling with steps of each sample's own: the exact flow, orders, peers, independence."""

import math

import numpy as np
import pytest
import torch

import fastgen
from fastgen import schedules
from fastgen.ode import Status
from fastgen.sampling.error_controlled import SOLVERS, sample_adaptive
from tests.support.closed_forms import Gaussian
from tests.support.mixtures import PREDICTIONS, model_of

GAUSSIAN = Gaussian(mean=(-1.0, 0.4), std=(0.5, 0.5))


def start_of(schedule, count=7, at=0.95):
    z = torch.randn(count, 2, generator=torch.Generator().manual_seed(3)).double()
    return z * schedule.sigma(at)


@pytest.mark.parametrize("solver", [s for s in SOLVERS if s not in ("fehlberg2", "adaptive_heun")])
@pytest.mark.parametrize(
    "schedule",
    [schedules.Rectified(), schedules.LinearVP(), schedules.EDM()],
    ids=lambda s: type(s).__name__,
)
def test_follows_the_probability_flow(solver, schedule):
    model, x = model_of(schedule, "noise", single=True), start_of(schedule)
    found = fastgen.sample(
        model, x, solver=solver, start=0.95, end=0.05, rtol=1e-7, atol=1e-7, dtype=torch.float64
    )
    exact = GAUSSIAN.flow(schedule, x, 0.95, 0.05)
    assert np.abs(found.numpy() - exact).max() < 2e-5


@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize("solver", ["dopri5", "dpm_adaptive"])
def test_every_prediction(predicts, solver):
    schedule = schedules.LinearVP()
    model, x = model_of(schedule, predicts), start_of(schedule)
    options = {"start": 0.95, "end": 0.05, "rtol": 1e-7, "atol": 1e-7}
    found = sample_adaptive(model, x, solver, **options)
    expected = sample_adaptive(model_of(schedule, "noise"), x, "dopri8", **options)
    assert torch.allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("order", [2, 3])
def test_dpm_adaptive_error_follows_its_tolerance(order):
    schedule = schedules.LinearVP()
    model, x = model_of(schedule, "noise"), start_of(schedule)
    exact = sample_adaptive(model, x, "dopri8", start=0.95, end=0.02, rtol=1e-7, atol=1e-7)
    errors, counts = [], []
    for tolerance in (1e-2, 1e-3, 1e-4):
        found = sample_adaptive(
            model,
            x,
            "dpm_adaptive",
            start=0.95,
            end=0.02,
            order=order,
            rtol=tolerance,
            atol=tolerance,
            return_solution=True,
        )
        errors.append((found.ys[-1] - exact).abs().max().item())
        counts.append(int(found.stats.accepted.max()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 1e-3
    assert counts[0] < counts[1] < counts[2]


def test_samples_are_independent_of_their_batch():
    schedule = schedules.LinearVP()
    model, x = model_of(schedule, "noise"), start_of(schedule, 9)
    for solver in ("dopri5", "dpm_adaptive"):
        options = {"start": 0.95, "end": 0.05, "return_solution": True}
        batch = sample_adaptive(model, x, solver, **options)
        part = sample_adaptive(model, x[[4, 1]], solver, **options)
        assert torch.allclose(part.ys[-1], batch.ys[-1][[4, 1]], rtol=0, atol=1e-12)
        assert torch.equal(part.stats.evaluations, batch.stats.evaluations[[4, 1]])
        assert batch.stats.rows == int(batch.stats.evaluations.sum())


def test_joint_steps_follow_the_same_flow():
    schedule = schedules.LinearVP()
    model, x = model_of(schedule, "noise"), start_of(schedule, 9)
    options = {"start": 0.95, "end": 0.05, "rtol": 1e-9, "atol": 1e-9, "return_solution": True}
    joint = sample_adaptive(model, x, "dopri5", step="joint", **options)
    assert len(joint.stats.evaluations) == 1
    own = sample_adaptive(model, x, "dopri5", **options)
    assert torch.allclose(joint.ys[-1], own.ys[-1], rtol=0, atol=1e-7)


def test_seeds_dtypes_and_conditions():
    schedule = schedules.Rectified()
    model = model_of(schedule, "velocity")
    options = {"solver": "dopri5", "start": 0.999, "end": 1e-4, "rtol": 1e-5, "atol": 1e-5}
    a = fastgen.sample(model, (4, 2), seed=7, **options)
    assert a.dtype == torch.float32
    b = fastgen.sample(model, (1, 2), seed=7, sample_ids=[2], **options)
    assert torch.allclose(a[2:3], b, atol=1e-6)
    z = fastgen.randn((4, 2), seed=7) * schedule.sigma(0.999)
    assert torch.equal(fastgen.sample(model, z, **options), a)
    shift = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0], [3.0, 3.0]]).double()
    shifted = fastgen.sample(model, (4, 2), seed=7, net_kwargs={"shift": shift}, **options)
    assert torch.allclose(shifted[2], a[2], atol=1e-5)
    assert (shifted[3] - a[3]).abs().max() > 1


def test_guidance():
    schedule = schedules.LinearVP()
    model, x = model_of(schedule, "noise"), start_of(schedule)
    shift = torch.tensor([0.5, 0.0]).double()
    options = {"start": 0.9, "end": 0.1, "rtol": 1e-6, "atol": 1e-6}
    guidance = fastgen.Guidance(
        2.0, unconditional={"shift": -shift}, batched=False, network=model.net
    )
    found = sample_adaptive(
        model, x, "dopri5", guidance=guidance, net_kwargs={"shift": shift}, **options
    )

    def by_hand(y, t):
        return 2 * model.net(y, t, shift=shift) - model.net(y, t, shift=-shift)

    other = fastgen.Model(by_hand, schedule, "noise", dtype=torch.float64)
    assert torch.allclose(found, sample_adaptive(other, x, "dopri5", **options), atol=1e-9)
    early = fastgen.Guidance(2.0, interval=(0.2, 0.5))
    with pytest.raises(ValueError, match="interval"):
        sample_adaptive(model, x, "dopri5", guidance=early, **options)


def test_differentiable():
    schedule = schedules.LinearVP()
    model = model_of(schedule, "noise", single=True)
    x = start_of(schedule).requires_grad_()
    options = {"solver": "dopri5", "start": 0.95, "end": 0.05, "dtype": torch.float64}
    found = fastgen.sample(model, x, differentiable=True, rtol=1e-7, atol=1e-7, **options)
    (g,) = torch.autograd.grad(found.sum(), x)
    _, v0 = GAUSSIAN.marginal(schedule, 0.05)
    _, v1 = GAUSSIAN.marginal(schedule, 0.95)
    assert torch.allclose(g, torch.full_like(g, math.sqrt(v0[0] / v1[0])), atol=1e-4)
    assert not fastgen.sample(model, x, **options).requires_grad


def test_dpm_adaptive_failures():
    schedule = schedules.LinearVP()
    model, x = model_of(schedule, "noise"), start_of(schedule)
    options = {"start": 0.95, "end": 0.02, "rtol": 1e-6, "atol": 1e-6, "max_steps": 3}
    with pytest.raises(RuntimeError, match=r"sample 0 stopped .*max_steps than 3"):
        sample_adaptive(model, x, "dpm_adaptive", **options)
    found = sample_adaptive(
        model, x, "dpm_adaptive", on_failure="return", return_solution=True, **options
    )
    assert (found.status == Status.MAX_STEPS).all()
    assert ((found.reached < 0.95) & (found.reached > 0.02)).all()


def test_errors():
    schedule = schedules.LinearVP()
    model = model_of(schedule, "noise")
    for options, error, message in (
        ({"steps": 5}, ValueError, "steps=5"),
        ({"checkpoint": True}, ValueError, "checkpoint=True"),
        ({"tol": 1e-3}, TypeError, "unknown option 'tol'"),
        ({"rtol": -1.0}, ValueError, "rtol=-1.0"),
        ({"dtype": torch.float16}, ValueError, "dtype"),
    ):
        with pytest.raises(error, match=message):
            fastgen.sample(model, (2, 2), solver="dopri5", **options)
    with pytest.raises(ValueError, match="order=4"):
        fastgen.sample(model, (2, 2), solver="dpm_adaptive", order=4)
    with pytest.raises(ValueError, match="finite"):
        fastgen.sample(model, (2, 2), solver="dpm_adaptive", end=0.0)
    whole = fastgen.Model(
        model.net,
        schedules.DiscreteVP.linear(10),
        "noise",
        time_input="index",
        time_dtype=torch.int64,
    )
    with pytest.raises(ValueError, match="not whole"):
        fastgen.sample(whole, (2, 2), solver="dopri5")


def test_a_pair_of_networks_is_integrated_by_its_velocity():
    schedule = schedules.Rectified()
    velocity = model_of(schedule, "velocity", single=True)
    pair = fastgen.Model(
        lambda x, t: (velocity.net(x, t), torch.full_like(x, math.nan)),
        schedule,
        "velocity_and_score",
        time_dtype=velocity.time_dtype,
    )
    x, options = start_of(schedule), {"dtype": torch.float64, "start": 0.95, "end": 0.05}
    found = fastgen.sample(pair, x, solver="dopri5", **options)
    assert torch.equal(found, fastgen.sample(velocity, x, solver="dopri5", **options))
    with pytest.raises(ValueError, match="noise does not follow"):
        fastgen.sample(pair, x, solver="dpm_adaptive", **options)
    with pytest.raises(ValueError, match="velocity and score is run as it is"):
        fastgen.sample(pair, x, solver="dopri5", guidance=fastgen.Guidance(2.0), **options)
    single = fastgen.Model(lambda x, t: x, schedule, "velocity_and_score")
    with pytest.raises(ValueError, match=r"expected \(velocity, score\), got Tensor"):
        fastgen.sample(single, x, solver="dopri5", **options)


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_argument_is_dropped(solver):
    model = model_of(schedules.LinearVP(), "noise")
    with pytest.raises(ValueError, match="backend='nonsense'"):
        fastgen.sample(model, (2, 2), solver=solver, backend="nonsense")
    with pytest.raises(TypeError, match="unknown option 'event'"):
        fastgen.sample(model, (2, 2), solver=solver, event=lambda t, y: t)
    with pytest.raises(ValueError, match="sample_ids"):
        fastgen.sample(model, torch.zeros(2, 2), solver=solver, sample_ids=[3, 4])
