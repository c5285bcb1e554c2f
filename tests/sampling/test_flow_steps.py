"""Callbacks, trajectories and progress of error-controlled sampling and of log_likelihood."""

import io
import sys

import numpy as np
import pytest
import torch

import fastgen
from fastgen import schedules, solvers, timesteps

SHAPE = (4, 3)
VP = schedules.LinearVP()
MEAN, STD = torch.tensor([0.3, -1.0, 2.0]).double(), 0.5
ENDS = {"start": 0.9, "end": 0.1}
ADAPTIVE = ["dopri5", "tsit5", "dopri8", "bosh3", "fehlberg45", "fehlberg2", "adaptive_heun"]
DOUBLE = {"dtype": torch.float64, "rtol": 1e-4, "atol": 1e-4, **ENDS}


def data_prediction(x, t, mean=MEAN):
    """E[x_0 | x_t = x] for x_0 ~ N(mean, STD^2) at times t [B]."""
    alpha, sigma = (v[:, None] for v in (VP.alpha(t), VP.sigma(t)))
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    return mean + gain * (x.double() - alpha * mean)


def gaussian(predicts="noise", mean=MEAN):
    """The exact network."""

    def net(x, t, shift=0.0):
        t = t.double()
        scale = model.parametrisation.input_scale(t)
        state = x.double() / (scale[:, None] if isinstance(scale, torch.Tensor) else scale)
        data = data_prediction(state, t, mean) + shift
        alpha, sigma = (v[:, None] for v in (VP.alpha(t), VP.sigma(t)))
        a, b = (v[:, None] for v in model.parametrisation.target(t))
        return (a * data + b * (state - alpha * data) / sigma).to(x.dtype)

    model = fastgen.Model(net, VP, predicts, time_dtype=torch.float64)
    return model


def watched(solver, model=None, **options):
    steps = []

    def look(step):
        steps.append((step, step.times, step.state, step.moved, step.data, step.output))

    found = fastgen.sample(
        model or gaussian(), SHAPE, solver, seed=3, callback=look, **{**DOUBLE, **options}
    )
    return found, steps


@pytest.mark.parametrize("solver", [*ADAPTIVE, "dpm_adaptive"])
def test_watching_changes_nothing_and_shows_every_accepted_step(solver):
    plain = fastgen.sample(gaussian(), SHAPE, solver, seed=3, **DOUBLE)
    (found, states), steps = watched(solver, trajectory=True)
    assert torch.equal(found, plain)
    accepted = torch.stack([moved for *_, moved, _, _ in steps]).sum(0)
    assert states.shape == (int(accepted.max()) + 1, *SHAPE)
    assert torch.equal(states[-1], found)
    start = fastgen.randn(SHAPE, seed=3, dtype=torch.float64) * VP.sigma(0.9)
    torch.testing.assert_close(states[0], start)
    assert [step.index for step, *_ in steps] == list(range(len(steps)))
    count = torch.zeros(4, dtype=torch.int64)
    for step, times, state, moved, *_ in steps:
        assert step.time == float(times.max())
        count += moved
        assert torch.equal(states[count, torch.arange(4)], state)
    np.testing.assert_array_equal(times, np.full(4, 0.1))


@pytest.mark.parametrize("predicts", ["data", "noise", "velocity", "v", "score", "edm"])
@pytest.mark.parametrize("solver", ["dopri5", "bosh3", "dpm_adaptive"])
def test_the_data_prediction_is_exact(solver, predicts):
    model = gaussian(predicts)
    _, steps = watched(solver, model)
    previous = fastgen.randn(SHAPE, seed=3, dtype=torch.float64) * VP.sigma(0.9)
    times_before = torch.full((4,), 0.9, dtype=torch.float64)
    for step, times, state, moved, data, output in steps:
        at, point = times, state
        if solver == "dpm_adaptive":  # its evaluations at states are at the steps' beginnings
            at = torch.where(moved, times_before, step.evaluated)
            point = torch.where(moved[:, None], previous, torch.nan)
        torch.testing.assert_close(step.evaluated, at, rtol=1e-9, atol=1e-9)
        here = moved if solver == "dpm_adaptive" else torch.ones_like(moved)
        wanted = data_prediction(point, at)
        torch.testing.assert_close(data[here], wanted[here], rtol=1e-7, atol=1e-7)
        p, q = model.parametrisation.conversion("data", at)
        column = [v[:, None] if isinstance(v, torch.Tensor) else v for v in (p, q)]
        torch.testing.assert_close(
            (column[0] * point + column[1] * output)[here], wanted[here], rtol=1e-7, atol=1e-7
        )
        previous, times_before = state, times


def test_guidance_is_in_the_data_prediction():
    guidance = fastgen.Guidance(3.0, unconditional={"shift": 0.0}, batched=False)
    _, steps = watched("dopri5", guidance=guidance, net_kwargs={"shift": 1.0})
    for _, times, state, _, data, _ in steps:
        torch.testing.assert_close(data, data_prediction(state, times) + 3.0, rtol=1e-7, atol=1e-7)


def test_samples_with_steps_of_their_own():
    """Where one sample needs more steps than another, rows of the trajectory say so."""
    x = torch.tensor([[0.0, 0.0, 0.0], [80.0, -50.0, 90.0]]).double()
    moved = []
    found, states = fastgen.sample(
        gaussian(), x, "bosh3", trajectory=True, callback=lambda s: moved.append(s.moved), **DOUBLE
    )
    counts = torch.stack(moved).sum(0)
    few, most = int(counts.argmin()), int(counts.max())
    least = int(counts[few])
    assert least < most == len(states) - 1
    assert torch.equal(states[least:, few], found[few].expand(most - least + 1, 3))
    alone = fastgen.sample(gaussian(), x[few : few + 1], "bosh3", trajectory=True, **DOUBLE)[1]
    assert torch.equal(alone[:, 0], states[: least + 1, few])


def test_steps_of_a_batch_together():
    _, steps = watched(solvers.dopri5(step="joint"))
    for _, times, state, moved, data, _ in steps:
        assert times.shape == moved.shape == (4,)
        assert moved.all()
        torch.testing.assert_close(data, data_prediction(state, times), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("given", ["name", "grid", "times"])
def test_states_at_times_that_are_asked_for(given):
    times = timesteps.times("karras", VP, 6, rho=3, **ENDS)
    asked = {
        "name": {"timesteps": "uniform", "steps": 6, **ENDS},
        "grid": {"timesteps": timesteps.karras(rho=3), "steps": 6, **ENDS},
        "times": {"timesteps": times.tolist()},
    }[given]
    if given == "name":
        times = timesteps.times("uniform", VP, 6, **ENDS)
    tight = {"dtype": torch.float64, "rtol": 1e-9, "atol": 1e-9}
    found, states = fastgen.sample(
        gaussian(), SHAPE, "dopri5", seed=3, trajectory=True, **asked, **tight
    )
    assert states.shape == (7, *SHAPE)
    assert torch.equal(found, states[-1])
    assert torch.equal(found, fastgen.sample(gaussian(), SHAPE, "dopri5", seed=3, **ENDS, **tight))
    for t, state in zip(times, states, strict=True):  # the flow of a Gaussian is affine
        ratio = np.sqrt(
            ((VP.alpha(t) * STD) ** 2 + VP.sigma(t) ** 2)
            / ((VP.alpha(0.9) * STD) ** 2 + VP.sigma(0.9) ** 2)
        )
        wanted = VP.alpha(t) * MEAN + ratio * (states[0] - VP.alpha(0.9) * MEAN)
        torch.testing.assert_close(state, wanted, rtol=1e-6, atol=1e-6)


def test_states_at_asked_times_have_gradients():
    x = torch.ones(2, 3).double().requires_grad_()
    _, states = fastgen.sample(
        gaussian(),
        x,
        "dopri5",
        trajectory=True,
        differentiable=True,
        timesteps=[0.9, 0.5, 0.1],
        dtype=torch.float64,
    )
    (gradient,) = torch.autograd.grad(states[1].sum(), x)
    variance = [(VP.alpha(t) * STD) ** 2 + VP.sigma(t) ** 2 for t in (0.5, 0.9)]
    wanted = np.sqrt(variance[0] / variance[1])
    torch.testing.assert_close(gradient, torch.full_like(gradient, wanted), rtol=1e-3, atol=1e-3)


def test_a_callback_sees_a_differentiable_run():
    x = torch.ones(2, 3).double().requires_grad_()
    seen = []
    found = fastgen.sample(
        gaussian(), x, "dopri5", differentiable=True, callback=seen.append, **DOUBLE
    )
    alone = fastgen.sample(gaussian(), x, "dopri5", differentiable=True, **DOUBLE)
    assert torch.equal(found, alone)
    assert torch.autograd.grad(found.sum(), x)[0].isfinite().all()
    assert seen
    assert not any(step.state.requires_grad for step in seen)


def test_what_a_callback_keeps_stays_and_what_it_did_not_read_is_refused():
    kept = []
    fastgen.sample(gaussian(), SHAPE, "dopri5", callback=kept.append, **DOUBLE)
    assert not torch.equal(kept[0].state, kept[1].state)
    with pytest.raises(RuntimeError, match="within the callback"):
        kept[0].data  # noqa: B018


def shown(call):
    """What tqdm wrote."""
    stream = io.StringIO()
    old, sys.stderr = sys.stderr, stream
    try:
        call()
    finally:
        sys.stderr = old
    return stream.getvalue()


@pytest.mark.parametrize("solver", ["dopri5", "dpm_adaptive"])
def test_progress_counts_time(solver):
    pytest.importorskip("tqdm")
    text = shown(lambda: fastgen.sample(gaussian(), SHAPE, solver, progress=True, **DOUBLE))
    last = text.strip().split("\r")[-1]
    assert last.startswith(f"{solver}: 100%")
    assert "0.800/0.800" in last
    assert "steps" in last


def test_a_bar_is_closed_where_the_run_fails():
    pytest.importorskip("tqdm")

    def net(x, t):
        raise ArithmeticError("no")

    model = fastgen.Model(net, VP, "noise")
    with pytest.raises(ArithmeticError):
        shown(lambda: fastgen.sample(model, SHAPE, "dopri5", progress=True, **ENDS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 4}, "steps=4: 'dopri5' chooses its own steps"),
        ({"timesteps": "karras"}, "with trajectory=True timesteps="),
        ({"differentiable": True, "trajectory": True}, "have no gradients; name times"),
        ({"trajectory": True, "timesteps": [0.9, 0.5], "end": 0.2}, "end = 0.2"),
        ({"solver": "dpm_adaptive", "trajectory": True, "timesteps": [0.9, 0.5]}, "no states"),
    ],
)
def test_what_has_no_meaning_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fastgen.sample(gaussian(), SHAPE, **{"solver": "dopri5", **options})


LIKELIHOOD = {"dtype": torch.float64, **ENDS}


@pytest.mark.parametrize(
    "method", ["dopri5", solvers.bosh3(rtol=1e-3), "rk4", "explicit_adams"], ids=str
)
def test_log_likelihood_is_watched(method):
    fixed = {"step_size": 0.1} if method in ("rk4", "explicit_adams") else {}
    x, steps = torch.linspace(-1, 1, 12).reshape(SHAPE).double(), []
    arguments = {"method": method, **LIKELIHOOD, **fixed}

    def look(step):
        steps.append((step, step.data))

    plain = fastgen.log_likelihood(gaussian(), x, **arguments)
    found, states = fastgen.log_likelihood(
        gaussian(), x, trajectory=True, callback=look, **arguments
    )
    assert torch.equal(found, plain)
    assert torch.equal(states[0], x)
    whole = fastgen.log_likelihood(
        gaussian(), x, trajectory=True, return_solution=True, **arguments
    )
    assert torch.equal(whole.trajectory, states)
    assert torch.equal(whole.latent, states[-1])
    assert steps[-1][0].time == pytest.approx(0.9)
    assert [s.time for s, _ in steps] == sorted(s.time for s, _ in steps)
    before = x
    for step, data in steps:
        at, point = (step.evaluated, before) if fixed else (step.times, step.state)
        torch.testing.assert_close(data, data_prediction(point, at), rtol=1e-7, atol=1e-7)
        before = step.state


def test_log_likelihood_at_asked_times():
    x = torch.linspace(-1, 1, 12).reshape(SHAPE).double()
    plain = fastgen.log_likelihood(gaussian(), x, **LIKELIHOOD)
    found, states = fastgen.log_likelihood(
        gaussian(), x, trajectory=True, timesteps=[0.1, 0.4, 0.9], dtype=torch.float64
    )
    assert torch.equal(found, plain)
    assert states.shape == (3, *SHAPE)
    assert torch.equal(states[0], x)
    for options, message in (
        ({"timesteps": [0.1, 0.9]}, "pass trajectory=True"),
        ({"timesteps": [0.9, 0.1], "trajectory": True}, "expected rising times"),
        ({"timesteps": [0.1, 0.9], "trajectory": True, "end": 0.2}, "end=0.2"),
        ({"trajectory": True, "differentiable": True}, "have no gradients"),
    ):
        with pytest.raises(ValueError, match=message):
            fastgen.log_likelihood(gaussian(), x, **options)


def test_log_likelihood_shows_its_progress():
    pytest.importorskip("tqdm")
    x = torch.zeros(SHAPE)
    text = shown(lambda: fastgen.log_likelihood(gaussian(), x, progress=True, **ENDS))
    assert "dopri5: 100%" in text
