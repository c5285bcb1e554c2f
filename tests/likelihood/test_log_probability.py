"""Log-densities of sampler steps: from the seed, from stored states, and in closed form."""

from itertools import pairwise

import pytest
import torch
from torch.distributions import Normal

import fastgen
from fastgen import Guidance, schedules
from fastgen.likelihood import log_ratio, transition_divergence

SCHEDULE = schedules.LinearVP()


def network(x, t, shift=0.0):
    return torch.tanh(x + shift) * (0.5 + t[:, None])


def make(solver, net=network, steps=5, **options):
    plan_options = {k: options.pop(k) for k in ("clip", "eta", "variance") if k in options}
    plan = fastgen.plan(solver, SCHEDULE, steps=steps, **plan_options)
    model = fastgen.Model(net, SCHEDULE, "noise", time_dtype=torch.float64)
    return fastgen.Sampler(model, plan, dtype=torch.float64, **options)


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        ("ddpm", {}),
        ("ddpm", {"variance": "large", "clip": (-0.7, 0.8)}),
        ("ddim", {"eta": 0.6}),
        ("euler_ancestral", {}),
        ("ddim_cfgpp", {"eta": 0.5, "guidance": Guidance(0.4, {"shift": 0.5}, batched=False)}),
        ("ddpm", {"guidance": Guidance(torch.tensor([2.0, 1.0, 0.5]), {"shift": 1.0},
                                       batched=False)}),
        ("ddpm", {"transform": lambda d, t: torch.tanh(d)}),
    ],
)  # fmt: skip
def test_seed_and_stored_states_give_the_same_density(solver, options):
    sampler = make(solver, **options)
    _, states = sampler((3, 4), seed=6, trajectory=True, shift=0.2)
    by_states = fastgen.trajectory_log_probability(sampler, states, shift=0.2)
    by_seed = fastgen.sampled_log_probability(sampler.plan, (3, 4), seed=6)
    assert by_states.steps == by_seed.steps == (0, 1, 2, 3)
    torch.testing.assert_close(by_states.values, by_seed.values, rtol=1e-9, atol=1e-9)


def test_density_is_that_of_the_textbook_posterior():
    sampler = make("ddpm")
    _, states = sampler((3, 4), seed=6, trajectory=True)
    found = fastgen.trajectory_log_probability(sampler, states)
    times = sampler.plan.times
    for k in found.steps:
        s, t = times[k], times[k + 1]
        a_s, a_t = SCHEDULE.alpha(s) ** 2, SCHEDULE.alpha(t) ** 2
        beta = 1 - a_s / a_t
        eps = network(states[k], torch.full((3,), s, dtype=torch.float64))
        mean = (states[k] - beta / (1 - a_s) ** 0.5 * eps) / (1 - beta) ** 0.5
        std = (beta * (1 - a_t) / (1 - a_s)) ** 0.5
        expected = Normal(mean, std).log_prob(states[k + 1]).sum(1)
        torch.testing.assert_close(found.values[k], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradient_in_the_network(checkpoint):
    shift = torch.tensor([0.2], dtype=torch.float64, requires_grad=True)
    sampler = make("ddpm", steps=3)
    _, states = sampler((2, 3), seed=6, trajectory=True, shift=0.2)

    def total(shift):
        return fastgen.trajectory_log_probability(
            sampler, states, differentiable=True, checkpoint=checkpoint, shift=shift
        ).values

    assert torch.autograd.gradcheck(total, (shift,))
    assert not fastgen.trajectory_log_probability(sampler, states, shift=shift).values.requires_grad


def test_multistep_history_is_evaluated_at_the_stored_states():
    def two_step(p, times):
        x, older = p.initial(), None
        for s, t in pairwise(times):
            d = p.denoise(x, s)
            mean = 0.6 * x + 0.3 * d + (0.1 * older if older is not None else 0)
            x, older = p.state(mean + 0.2 * p.noise(s, t), t), d
        return x

    fastgen.solvers.register("two_step_for_this_test", order=None, source="test")(two_step)
    try:
        sampler = make("two_step_for_this_test", steps=4)
        _, states = sampler((3, 2), seed=2, trajectory=True)
        by_states = fastgen.trajectory_log_probability(sampler, states)
        by_seed = fastgen.sampled_log_probability(sampler.plan, (3, 2), seed=2)
    finally:
        del fastgen.solvers.registry._SOLVERS["two_step_for_this_test"]
    assert by_states.steps == (0, 1, 2, 3)
    torch.testing.assert_close(by_states.values, by_seed.values, rtol=1e-9, atol=1e-9)


def test_what_has_no_density_is_refused():
    states = torch.zeros(6, 2, 3)
    with pytest.raises(ValueError, match="no step adds noise"):
        fastgen.trajectory_log_probability(make("ddim"), states)
    with pytest.raises(ValueError, match="evaluated at a point with fresh noise"):
        fastgen.sampled_log_probability(make("predictor_corrector").plan, (2, 3))
    with pytest.raises(ValueError, match="expected 6 of them, got 4"):
        fastgen.trajectory_log_probability(make("ddpm"), states[:4])


def shifted(x, t, shift=0.0):
    return network(x, t, shift) + 0.3 * torch.cos(x)


@pytest.mark.parametrize(("solver", "options"), [("ddpm", {}), ("ddim", {"eta": 0.6})])
def test_divergence_of_steps_is_that_of_torchs_normals(solver, options):
    """And the expected log-ratio: drawn steps average to minus the divergence."""
    own, other = make(solver, **options), make(solver, shifted, **options)
    other = fastgen.Sampler(other.model, own.plan, dtype=torch.float64)
    _, states = own((3, 4), seed=6, trajectory=True)
    found = transition_divergence(own, other, states)
    log_p = fastgen.trajectory_log_probability(own, states)
    ratio = log_ratio(log_p, fastgen.trajectory_log_probability(other, states))
    assert found.shape == ratio.shape == log_p.values.shape
    assert (transition_divergence(own, own, states) == 0).all()
    # One step from one state, 20,000 times: E log p / p' = KL.
    times = own.plan.times.tolist()
    kwargs = {k: v for k, v in options.items() if k == "eta"}
    step = fastgen.plan(solver, SCHEDULE, timesteps=times[1:3], **kwargs)
    one, two = (fastgen.Sampler(s.model, step, dtype=torch.float64) for s in (own, other))
    start = states[1, :1].expand(20_000, 4)
    _, drawn = one(start, seed=2, trajectory=True)
    ratios = log_ratio(
        fastgen.trajectory_log_probability(two, drawn),
        fastgen.trajectory_log_probability(one, drawn),
    )[0]
    wanted = transition_divergence(one, two, drawn[:, :1])[0, 0]
    assert wanted > 0
    torch.testing.assert_close(wanted, found[1, 0])
    assert abs(ratios.mean() - wanted) < 4 * ratios.std() / 20_000**0.5
    # log p / p' of Gaussians of one std has variance 2 KL.
    assert abs(ratios.var() / (2 * wanted) - 1) < 0.05


def test_gradients_of_the_divergence_are_those_of_the_mean():
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    own = make("ddpm", lambda x, t: network(x, t) + weight * torch.cos(x))
    reference = fastgen.Sampler(make("ddpm").model, own.plan, dtype=torch.float64)
    with torch.no_grad():
        _, states = own((3, 4), seed=6, trajectory=True)
    run = {"differentiable": True}
    total = transition_divergence(own, reference, states, **run).sum()
    (slope,) = torch.autograd.grad(total, weight)
    # KL is a square in the weight: its slope is 2 KL / weight.
    torch.testing.assert_close(slope, 2 * total.detach() / weight.detach())
    checkpointed = transition_divergence(own, reference, states, checkpoint=True, **run).sum()
    torch.testing.assert_close(torch.autograd.grad(checkpointed, weight)[0], slope)
    mask = torch.arange(4) < 2
    half = transition_divergence(own, reference, states, mask=mask)
    rest = transition_divergence(own, reference, states, mask=~mask)
    torch.testing.assert_close(half + rest, transition_divergence(own, reference, states))


def test_ratios_and_divergences_of_what_does_not_belong_together_are_refused():
    own, other = make("ddpm"), make("ddpm", steps=4)
    _, states = own((3, 4), seed=6, trajectory=True)
    with pytest.raises(ValueError, match="states: expected 5 of them, got 6"):
        transition_divergence(own, other, states)
    with pytest.raises(ValueError, match="reference: its plan is another"):
        transition_divergence(own, make("ddim", eta=0.5), states)
    with pytest.raises(TypeError, match="reference=None: expected a Sampler"):
        transition_divergence(own, None, states)
    found = fastgen.trajectory_log_probability(own, states)
    fewer = fastgen.trajectory_log_probability(own, states[:, :2])
    with pytest.raises(ValueError, match=r"new: steps .* of 2 samples, but old has"):
        log_ratio(found, fewer)
    with pytest.raises(TypeError, match=r"new=.*expected a LogProbability"):
        log_ratio(found, found.values)
