"""Plans, programs and small buffers that calls of `sample` leave to later ones."""

import copy
import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import fastgen
from fastgen.schedules import CosineVP, LinearVP, Rectified, UserSchedule
from fastgen.solvers.registry import kept_plans


def network(x, t):
    return torch.tanh(x) * t.reshape(-1, *[1] * (x.ndim - 1))


def model(schedule=None):
    return fastgen.Model(network, CosineVP() if schedule is None else schedule, "noise")


def draw(**options):
    return fastgen.sample(model(), (3, 2, 4), **{"solver": "dpmpp_2m", "steps": 6, **options})


def test_equal_calls_of_plan_give_one_plan_and_others_another():
    plan = fastgen.plan("ddim", LinearVP(), 5, eta=0.5)
    assert fastgen.plan("ddim", LinearVP(), 5, eta=0.5) is plan
    others = [
        fastgen.plan("ddim", LinearVP(), 5, eta=0.25),
        fastgen.plan("ddim", LinearVP(), 6, eta=0.5),
        fastgen.plan("ddim", LinearVP(beta_max=10), 5, eta=0.5),
        fastgen.plan("ddim", LinearVP(), 5, eta=0.5, clip=(-1, 1)),
        fastgen.plan("ddim", LinearVP(), 5, eta=0.5, end=0.125),
        fastgen.plan("ddim", LinearVP(), 5, eta=0.5, timesteps="quadratic"),
    ]
    assert len({id(p) for p in [plan, *others]}) == 7


def test_arguments_that_only_compare_equal_have_plans_that_print_as_given():
    whole = fastgen.plan("ddim", LinearVP(beta_max=20), 5, eta=1)
    real = fastgen.plan("ddim", LinearVP(beta_max=20.0), 5, eta=1.0)
    assert str(whole) != str(real)


def test_nothing_of_a_plan_can_be_written_to():
    times = np.array([0.9, 0.5, 0.0])
    plan = fastgen.plan("ddim", LinearVP(), timesteps=times, eta=0.5)
    times[1] = 0.4
    assert plan.times[1] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        plan.times[1] = 0.4
    with pytest.raises(TypeError):
        plan.options["eta"] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.solver = "ddpm"


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies_of_a_plan_are_as_safe(how):
    plan = how(fastgen.plan("ddim", LinearVP(), 5, eta=0.5))
    assert str(plan) == str(fastgen.plan("ddim", LinearVP(), 5, eta=0.5))
    assert plan.nfe == 5
    with pytest.raises(ValueError, match="read-only"):
        plan.times[1] = 0.4
    with pytest.raises(TypeError):
        plan.options["eta"] = 1.0


def test_plans_on_a_users_functions_are_made_anew():
    power = [1.0]
    schedule = UserSchedule(lambda t: 1 - t ** power[0], lambda t: t ** power[0])
    before = fastgen.plan("ddim", schedule, 4)
    power[0] = 2.0
    after = fastgen.plan("ddim", schedule, 4)
    assert str(before) != str(after)


def test_a_repeated_call_gives_its_first_bits():
    kept_plans.clear()
    first = draw(seed=4)
    assert torch.equal(draw(seed=4), first)
    assert not torch.equal(draw(seed=5), first)
    assert torch.equal(draw(seed=4, backend="reference"), first)
    assert torch.equal(draw(seed=4, trajectory=True)[0], first)
    assert torch.equal(draw(seed=[4, 4, 4]), first)


def test_calls_that_differ_share_nothing_that_matters():
    calls = [
        {},
        {"solver": "ddim"},
        {"steps": 7},
        {"clip": (-0.5, 0.5)},
        {"guidance": fastgen.Guidance(2.0, {})},
        {"guidance": fastgen.Guidance(3.0, {})},
        {"guidance": fastgen.Guidance(3.0, {}, interval=(0.2, 0.8))},
        {"guidance": fastgen.Guidance(torch.tensor([1.0, 2.0, 3.0]), {})},
        {"guidance": fastgen.Guidance(torch.tensor([3.0, 2.0, 1.0]), {})},
        {"dtype": torch.float64},
        {"noise": "brownian", "solver": "euler_maruyama"},
        {"transform": lambda x, t: x.clamp(-0.3, 0.3)},
    ]

    def alone(call):
        sampler_options = ("guidance", "dtype", "noise", "transform")
        of_plan = {k: v for k, v in call.items() if k not in sampler_options}
        plan = fastgen.plan(**{"solver": "dpmpp_2m", "steps": 6, "schedule": CosineVP(), **of_plan})
        kept = {k: v for k, v in call.items() if k in sampler_options}
        return fastgen.Sampler(model(), plan, **kept)((3, 2, 4), seed=2)

    expected = []
    for call in calls:
        kept_plans.clear()
        expected.append(alone(call))
    for _ in range(2):
        for call, wanted in zip(calls, expected, strict=True):
            assert torch.equal(draw(seed=2, **call), wanted), call


def test_what_a_callback_keeps_is_not_written_to_by_later_calls():
    seen = []
    draw(seed=1, callback=lambda step: seen.append(step.state))
    copies = [state.clone() for state in seen]
    draw(seed=2, callback=lambda step: None)
    assert all(map(torch.equal, seen, copies))


def test_threads_that_draw_by_one_plan_do_not_disturb_each_other():
    wanted = [draw(seed=s) for s in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda s: draw(seed=s % 8), range(64)))
    assert all(torch.equal(x, wanted[s % 8]) for s, x in enumerate(found))


def test_a_first_call_in_inference_mode_leaves_nothing_of_it():
    kept_plans.clear()
    with torch.inference_mode():
        draw(seed=3, steps=9)
    sampler = fastgen.Sampler(model(), fastgen.plan("dpmpp_2m", CosineVP(), 9))
    x = torch.randn(3, 2, 4, requires_grad=True)
    sampler(x, differentiable=True).sum().backward()
    assert x.grad is not None


def test_rectified_plans_are_kept_too():
    assert fastgen.plan("euler", Rectified(), 3) is fastgen.plan("euler", Rectified(), 3)
