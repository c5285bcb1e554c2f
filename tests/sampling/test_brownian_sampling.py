"""Samplers whose noise follows one Brownian motion per sample, whatever the time grid."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import fastgen
from fastgen import schedules
from fastgen.kernels import dispatch
from fastgen.plans.forms import Let, Normal
from fastgen.plans.increments import follow_path, increments

SCHEDULE = schedules.LinearVP()
VARIANCE, MEAN = 0.25, 0.4  # of the Gaussian data
STOCHASTIC = [
    name
    for name in fastgen.solvers.names()
    if fastgen.solvers.get(name).stochastic and not fastgen.solvers.get(name).two_times
]


def gaussian_noise(schedule):
    """E[eps | x_t] for data N(MEAN, VARIANCE), exactly."""

    def net(x, t):
        t = float(t[0])
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return sigma * (x - alpha * MEAN) / (alpha**2 * VARIANCE + sigma**2)

    return net


def make(solver, schedule=SCHEDULE, net=None, noise="brownian", dtype=torch.float64, **options):
    plan_options = {k: v for k, v in options.items() if k not in ("backend", "guidance")}
    own = {k: v for k, v in options.items() if k in ("backend", "guidance")}
    plan = fastgen.plan(solver, schedule, predicts="noise", **plan_options)
    model = fastgen.Model(net or gaussian_noise(schedule), schedule, "noise")
    return fastgen.Sampler(model, plan, noise=noise, dtype=dtype, **own)


def network(x, t):
    shape = (-1, *[1] * (x.ndim - 1))
    return torch.tanh(x + 0.3) * (0.5 + t.reshape(shape).to(x.dtype))


@pytest.mark.parametrize("noise", ["brownian", "draws"])
@pytest.mark.parametrize(
    "solver", ["euler_maruyama", "ddpm", "euler_ancestral", "dpmpp_2m_sde", "seeds_1"]
)
def test_strong_convergence_along_shared_paths(solver, noise):
    """Error against a fine grid: slope 1 or better on one path, none with fresh draws."""
    start, end, fine = 0.9, 0.1, 1024
    counts = [8, 16, 32, 64, 128]

    def run(steps):
        times = np.linspace(start, end, steps + 1).tolist()
        return make(solver, noise=noise, timesteps=times)((16, 32), seed=5)

    reference = run(fine)
    errors = [(run(n) - reference).square().mean().sqrt().item() for n in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    if noise == "draws":
        assert abs(slope) < 0.25
        assert min(errors) > 0.1
    else:
        assert slope > 0.75, errors
        assert slope < 1.25 or solver in ("dpmpp_2m_sde",), errors
        assert errors[-1] < 0.02


@pytest.mark.parametrize("solver", STOCHASTIC)
def test_any_part_of_a_batch_can_be_drawn_again_alone(solver, backend):
    sampler = make(solver, net=network, steps=4, start=0.9, backend=backend, dtype=torch.float32)
    whole = sampler((6, 2, 3), seed=11)
    assert whole.isfinite().all()
    assert torch.equal(sampler((2, 2, 3), seed=11, sample_ids=[4, 1]), whole[[4, 1]])
    own = sampler((3, 2, 3), seed=[7, 11, 2**64 - 1])
    assert torch.equal(own[1], whole[1])
    assert not torch.equal(own[0], whole[0])


@pytest.mark.parametrize("solver", ["ddpm", "seeds_2", "dpmpp_sde", "sa_solver", "restart"])
def test_recorded_and_in_place_runs_and_backends_agree(solver):
    runs = [
        make(solver, net=network, steps=4, start=0.9, backend=b, dtype=torch.float32)
        for b in ("reference", "cpp")
    ]
    x, seed = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(1)), 4
    result = runs[0](x, seed=seed)
    assert torch.equal(runs[1](x, seed=seed), result)
    assert torch.equal(runs[1](x, seed=seed), result)  # with the buffers of the first run
    gradients = []
    for checkpoint in (False, True):
        start = x.clone().requires_grad_()
        y = runs[1](start, seed=seed, differentiable=True, checkpoint=checkpoint)
        torch.testing.assert_close(y.detach(), result, rtol=1e-6, atol=1e-6)
        gradients += torch.autograd.grad(y.sum(), start)
    assert torch.equal(*gradients)


def test_trajectory_and_callback_see_the_same_states():
    sampler, states = make("ddpm", steps=5, start=0.9), []
    x, kept = sampler(
        (2, 3), seed=1, trajectory=True, callback=lambda s: states.append(s.state.clone())
    )
    assert torch.equal(x, sampler((2, 3), seed=1))
    assert torch.equal(kept[1:], torch.stack(states))


def test_the_noise_is_the_increment_of_the_public_motion():
    """One Euler-Maruyama-like step with a network that returns 0."""
    s, t = 0.8, 0.3
    sampler = make("ddpm", net=lambda x, t: torch.zeros_like(x), timesteps=[s, t])
    x = torch.zeros(3, 4, dtype=torch.float64)
    high, low = fastgen.brownian((3, 4), [s, t], seed=9, sample_ids=[5, 6, 7])
    alpha, sigma = SCHEDULE.alpha, SCHEDULE.sigma
    ratio = (alpha(s) * sigma(t) / (alpha(t) * sigma(s))) ** 2
    expected = sigma(t) * math.sqrt(1 - ratio) * (high - low) / math.sqrt(s - t)
    result = sampler(x, seed=9, sample_ids=[5, 6, 7])
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-13)


def test_log_probability_of_a_sampled_run():
    sampler = make("ddpm", steps=4, start=0.9)
    _, states = sampler((3, 5), seed=2, trajectory=True)
    stored = fastgen.trajectory_log_probability(sampler, states)
    drawn = fastgen.sampled_log_probability(sampler.plan, (3, 5), seed=2, noise="brownian")
    assert drawn.steps == stored.steps
    torch.testing.assert_close(drawn.values, stored.values)
    other = fastgen.sampled_log_probability(sampler.plan, (3, 5), seed=2)
    assert not torch.allclose(drawn.values, other.values)
    with pytest.raises(ValueError, match="noise='draw': did you mean 'draws'"):
        fastgen.sampled_log_probability(sampler.plan, (3, 5), noise="draw")


def test_values_of_the_last_step_are_used_again(monkeypatch):
    sampler = make("ddpm", steps=6, start=0.9, end=0.1, backend="cpp")
    calls, found = [], dispatch.find
    original = found("brownian", torch.device("cpu"), "cpp")

    def counted(elements, seeds, ids, tree, times):
        calls.append(len(times))
        return original(elements, seeds, ids, tree, times)

    monkeypatch.setattr(
        dispatch, "find", lambda name, *args: counted if name == "brownian" else found(name, *args)
    )
    sampler((2, 3), seed=1)
    assert calls == [1] * 7


def noises(plan):
    found = {s for i in plan.instructions if isinstance(i, Let) for s in i.form.terms}
    return {s for s in found if isinstance(s, Normal)}


def test_which_noises_are_on_the_path():
    grid = [0.9, 0.6, 0.3]

    def on_path(solver, **options):
        plan = fastgen.plan(solver, schedules.Rectified(), timesteps=grid, **options)
        found = increments(plan.instructions, grid[0])
        assert all((z.start, z.end) == (i.start, i.end) for z, i in found.items())
        return len(found), len(noises(plan))

    for solver in ("euler_maruyama", "ddpm", "dpmpp_2m_sde", "seeds_1", "seeds_2", "dpmpp_sde"):
        some, every = on_path(solver)
        assert some == every >= 2, solver
    assert on_path("euler_churn", s_churn=1.0)[0] == 0
    nested = fastgen.plan("dpmpp_sde", schedules.Rectified(), timesteps=grid)
    ends = sorted((z.start, z.end) for z in increments(nested.instructions, grid[0]))
    assert [a for a, _ in ends] == [0.6, 0.6, 0.9, 0.9]


def test_noise_of_no_interval_stays_a_draw():
    for solver in fastgen.solvers.names():
        if fastgen.solvers.get(solver).two_times:
            continue
        plan = fastgen.plan(solver, SCHEDULE, steps=4, start=0.9)
        found = increments(plan.instructions, 0.9)
        for z in found:
            assert 0 <= z.end < z.start <= 1
        taken = sorted(found)
        for a, b in pairwise(sorted(taken, key=lambda z: -z.start)):
            assert b.start <= a.end + 1e-9 or a.start == b.start, solver
        langevin = [z for z in noises(plan) if z.start == z.end]
        assert not set(langevin) & set(found)
        assert len(follow_path(plan.instructions, 0.9)) == len(plan.instructions)


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m", "ddim"])
def test_deterministic_solvers_are_unchanged(solver):
    runs = [make(solver, net=network, noise=n, steps=4, start=0.9) for n in ("draws", "brownian")]
    assert torch.equal(runs[0]((2, 3), seed=3), runs[1]((2, 3), seed=3))


def test_guidance_is_unaffected():
    def net(x, t, label):
        return network(x, t) * (1 + label.reshape(-1, 1))

    def run(scale, batched):
        guidance = fastgen.Guidance(scale, unconditional={"label": torch.zeros(2)}, batched=batched)
        sampler = make("ddpm", net=net, steps=4, start=0.9, guidance=guidance)
        return sampler((2, 3), seed=3, label=torch.ones(2))

    result = run(2.5, True)
    torch.testing.assert_close(run(2.5, False), result)
    torch.testing.assert_close(run(torch.full((2,), 2.5), True), result)


def test_sample_passes_it_on_and_unknown_noise_is_refused():
    model = fastgen.Model(network, SCHEDULE, "noise")
    x = fastgen.sample(model, (2, 3), "ddpm", 4, seed=1, noise="brownian", start=0.9)
    plan = fastgen.plan("ddpm", SCHEDULE, steps=4, start=0.9)
    assert torch.equal(x, fastgen.Sampler(model, plan, noise="brownian")((2, 3), seed=1))
    assert not torch.equal(x, fastgen.Sampler(model, plan)((2, 3), seed=1))
    with pytest.raises(ValueError, match="noise='brown': did you mean 'brownian'"):
        fastgen.Sampler(model, plan, noise="brown")
