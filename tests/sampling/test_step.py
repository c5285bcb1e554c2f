"""What a callback is shown: the last evaluation's output and its data prediction."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import fastgen
from fastgen import schedules, solvers
from fastgen.model import dynamic_threshold
from fastgen.model.parametrisation import Parametrisation

SHAPE = (3, 4)
VP = schedules.LinearVP()
MEAN, STD = torch.tensor([0.3, -1.0, 0.5, 2.0]).double(), 0.5
ENDS = {"start": 0.9, "end": 0.1}


def data_prediction(schedule, x, t):
    """E[x_0 | x_t = x] for x_0 ~ N(MEAN, STD^2)."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    return MEAN + gain * (x.double() - alpha * MEAN)


class Gaussian:
    """The exact network of any prediction; it keeps what it was called with and returned."""

    def __init__(self, schedule, predicts, dtype=torch.float64):
        self.model = fastgen.Model(self, schedule, predicts, dtype=dtype, time_dtype=torch.float64)
        self.calls = []

    def __call__(self, x, t, *_, strength=1.0):
        t, time = float(t[0]), torch.full(x.shape[:1], float(t[0]), dtype=torch.float64)
        scale = self.model.parametrisation.input_scale(t)
        state = x.double() / scale
        data = data_prediction(self.model.schedule, state, t) * strength
        alpha, sigma = self.model.schedule.alpha(t), self.model.schedule.sigma(t)
        known = self.model.parametrisation
        if known.predicts == "average_velocity":  # as if the velocity were constant
            known = Parametrisation(known.schedule, "velocity")
        a, b = (v[:, None] for v in known.target(time))
        output = (a * data + b * (state - alpha * data) / sigma).to(x.dtype)
        self.calls.append((state.clone(), t, output.detach().clone(), data))
        return output


def prediction(solver):
    return "average_velocity" if solvers.get(solver).two_times else "noise"


def run(net, plan, look, state=torch.float64, options=None, **arguments):
    sampler = fastgen.Sampler(net.model, plan, dtype=state, **(options or {}))
    return sampler(SHAPE, seed=5, callback=look, **arguments)


@pytest.mark.parametrize("solver", solvers.names())
@pytest.mark.parametrize("differentiable", [False, True], ids=["in_place", "recorded"])
def test_every_solver_shows_the_exact_data_prediction(solver, differentiable):
    plan = fastgen.plan(solver, VP, 5, predicts=prediction(solver), **ENDS)
    net, seen = Gaussian(VP, prediction(solver)), []

    def look(step):
        x, t, output, data = net.calls[-1]
        seen.append(step.index)
        assert step.evaluated == pytest.approx(t, abs=1e-12)
        assert torch.equal(step.output, output)
        torch.testing.assert_close(step.data, data, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(step.data, data_prediction(VP, x, t), rtol=1e-9, atol=1e-9)
        assert step.data.dtype == step.state.dtype == torch.float64
        assert step.data.shape == SHAPE

    result = run(net, plan, look, differentiable=differentiable)
    assert seen == list(range(len(plan.states)))
    alone = run(Gaussian(VP, prediction(solver)), plan, None, differentiable=differentiable)
    assert torch.equal(result, alone)


@pytest.mark.parametrize("predicts", ["data", "noise", "velocity", "v", "score", "edm"])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun", "unipc"])
def test_every_prediction(predicts, solver):
    plan = fastgen.plan(solver, VP, 5, predicts=predicts, **ENDS)
    net = Gaussian(VP, predicts)

    def look(step):
        torch.testing.assert_close(step.data, net.calls[-1][3], rtol=1e-8, atol=1e-8)
        assert torch.equal(step.output, net.calls[-1][2])

    run(net, plan, look)


@pytest.mark.parametrize("predicts", ["noise", "edm", "velocity"])
@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m", "rk4"])
def test_a_network_in_half_precision(predicts, solver):
    """The state is shown in its own precision, whatever the network reads."""
    plan = fastgen.plan(solver, VP, 5, predicts=predicts, **ENDS)
    net, states = Gaussian(VP, predicts, torch.bfloat16), []

    def look(step):
        assert step.output.dtype == torch.bfloat16
        assert step.data.dtype == torch.float32
        p, q = net.model.parametrisation.conversion("data", step.evaluated)
        if solver in ("euler", "dpmpp_2m") and states:  # they evaluate at the state before
            wanted = p * states[-1] + q * step.output.float()
            torch.testing.assert_close(step.data, wanted, rtol=1e-5, atol=1e-5)
        states.append(step.state.clone())

    result = run(net, plan, look, torch.float32)
    alone = run(Gaussian(VP, predicts, torch.bfloat16), plan, None, torch.float32)
    assert torch.equal(result, alone)
    assert len(states) == 5


@pytest.mark.parametrize("scale", [3.0, torch.tensor([1.0, 2.0, 3.0])], ids=["one", "each"])
def test_guidance_is_in_it(scale):
    guidance = fastgen.Guidance(scale, unconditional={"strength": 0.5}, batched=False)
    plan = fastgen.plan("dpmpp_2m", VP, 5, **ENDS)
    net = Gaussian(VP, "noise")

    def look(step):
        conditional, other = net.calls[-2][3], net.calls[-1][3]
        factor = torch.as_tensor(scale, dtype=torch.float64).reshape(-1, 1)
        wanted = other + factor * (conditional - other)
        torch.testing.assert_close(step.data, wanted, rtol=1e-6, atol=1e-6)

    run(net, plan, look, options={"guidance": guidance})


def test_clip_and_transform_are_in_it():
    plan = fastgen.plan("ddim", VP, 5, clip=(-0.25, 0.25), **ENDS)
    net = Gaussian(VP, "noise")

    def clipped(step):
        torch.testing.assert_close(step.data, net.calls[-1][3].clamp(-0.25, 0.25))

    run(net, plan, clipped)
    threshold = dynamic_threshold(0.6, 1.0)
    net = Gaussian(VP, "noise")

    def transformed(step):
        wanted = threshold(net.calls[-1][3], step.evaluated)
        torch.testing.assert_close(step.data, wanted)
        assert torch.equal(step.data, step.output)

    plain = fastgen.plan("ddim", VP, 5, **ENDS)
    run(net, plain, transformed, options={"transform": threshold})


def test_gradients_go_through_the_data_prediction():
    plan = fastgen.plan("heun", VP, 3, **ENDS)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    seen = []
    net = Gaussian(VP, "noise")
    fastgen.Sampler(net.model, plan, dtype=torch.float64)(
        x, differentiable=True, callback=lambda step: seen.append(step.data)
    )
    (gradient,) = torch.autograd.grad(seen[-1].sum(), x)
    shift = 1e-6 * torch.eye(4, dtype=torch.float64)[:1].expand(3, -1)
    values = []
    for sign in (1, -1):
        last = []
        fastgen.Sampler(net.model, plan, dtype=torch.float64)(
            x.detach() + sign * shift, callback=lambda step, last=last: last.append(step.data)
        )
        values.append(last[-1])
    difference = (values[0] - values[1])[:, 0] / 2e-6
    torch.testing.assert_close(gradient[:, 0], difference, rtol=1e-6, atol=1e-8)


def test_a_network_conditioned_on_its_last_prediction():
    """Self-conditioning (Chen et al. 2022): the callback hands the data prediction on."""
    held = {"data": torch.zeros(SHAPE)}
    given = []

    def net(x, t):
        given.append(held["data"].clone())
        return 0.9 * x + 0.1 * held["data"]

    model = fastgen.Model(net, VP, "data")
    fastgen.sample(
        model, SHAPE, "ddim", 4, callback=lambda step: held.update(data=step.data), **ENDS
    )
    assert len(given) == 4
    assert torch.equal(given[0], torch.zeros(SHAPE))
    assert all(not torch.equal(a, b) for a, b in pairwise(given))


def test_what_was_read_stays_and_what_was_not_is_refused():
    kept = []

    def look(step):
        if step.index == 1:
            kept.append((step, step.data.clone()))
        else:
            kept.append((step, None))

    net = Gaussian(VP, "noise")
    run(net, fastgen.plan("ddim", VP, 3, **ENDS), look)
    assert torch.equal(kept[1][0].data, kept[1][1])
    for step, _ in (kept[0], kept[2]):
        with pytest.raises(RuntimeError, match="within the callback"):
            step.data  # noqa: B018
    with pytest.raises(RuntimeError, match="within the callback"):
        kept[1][0].output  # noqa: B018


def test_a_callback_that_writes_first_sees_the_same():
    plan = fastgen.plan("dpmpp_2m", VP, 4, **ENDS)
    for write in (False, True):
        net = Gaussian(VP, "noise")

        def look(step, net=net, write=write):
            if write:
                step.state.fill_(7.0)
            torch.testing.assert_close(step.data, net.calls[-1][3], rtol=1e-9, atol=1e-9)

        run(net, plan, look)


def test_nothing_is_computed_that_is_not_read(monkeypatch):
    from fastgen.sampling import observation

    def refuse(*arguments):
        raise AssertionError("computed")

    monkeypatch.setattr(observation, "converted", refuse)
    plan = fastgen.plan("ddim", VP, 3, **ENDS)
    run(Gaussian(VP, "noise"), plan, lambda step: step.state)
    with pytest.raises(AssertionError, match="computed"):
        run(Gaussian(VP, "noise"), plan, lambda step: step.data)


def test_a_pair_of_velocity_and_score_has_no_data_prediction():
    def pair(x, t):
        return -x, x

    model = fastgen.Model(pair, schedules.Rectified(), "velocity_and_score")

    def look(step):
        assert torch.equal(step.output, -step.output * -1)
        with pytest.raises(ValueError, match="the data does not follow"):
            step.data  # noqa: B018

    fastgen.sample(model, SHAPE, "euler", 3, callback=look)


def test_times_of_a_planned_step():
    seen = []
    plan = fastgen.plan("ddim", VP, 3, **ENDS)
    run(Gaussian(VP, "noise"), plan, lambda s: seen.append((s.times, s.moved)))
    np.testing.assert_allclose(torch.stack([t for t, _ in seen])[:, 0], plan.times[1:])
    assert all(t.shape == (3,) and m.all() for t, m in seen)
