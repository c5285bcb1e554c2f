"""Steering: a Gaussian's tilted law and its constant in closed form, lineages, and errors."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import fastgen
from fastgen import Guidance, schedules
from fastgen.control.resampling import effective, systematic
from fastgen.plans import Builder
from fastgen.rules import APG
from fastgen.sampling.prepared import Prepared
from fastgen.sampling.selected import points_of
from fastgen.solvers import Solver

SCHEDULE = schedules.CosineVP()
MEAN, VARIANCE = 0.3, 0.6
TARGET, WIDTH = 1.2, 0.5


def gain(t):
    a, s = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    return a * VARIANCE / (a * a * VARIANCE + s * s)


def denoiser(x, t):
    """E[x_0 | x_t] of N(MEAN, VARIANCE)."""
    a, g = SCHEDULE.alpha(t)[:, None], gain(t)[:, None]
    return (MEAN + g * (x.double() - a * MEAN)).to(x.dtype)


def gaussian():
    return fastgen.Model(denoiser, SCHEDULE, "data", time_dtype=torch.float64)


def law(plan):
    """Mean and variance of what the plan draws: every evaluation is affine in the noises."""
    form = plan.canonical()
    rows = []
    for j in range(plan.nfe + 1):
        row = np.concatenate([[form.a[j] * SCHEDULE.sigma(plan.times[0])], form.c[j], [0.0]])
        row = row + sum(form.b[j, i] * rows[i] for i in range(min(j, plan.nfe)))
        if j == plan.nfe:
            return float(row[-1]), float((row[:-1] ** 2).sum())
        t = float(form.times[j])
        data = gain(t) * row
        data[-1] += MEAN * (1 - gain(t) * SCHEDULE.alpha(t))
        rows.append(data)
    raise AssertionError


def quadratic(x):
    return -((x[:, 0] - TARGET) ** 2) / (2 * WIDTH)


def tilted(mean, variance, scale=1.0):
    """Z, mean and variance of N(mean, variance) exp(scale quadratic) / Z."""
    width = WIDTH / scale
    total = variance + width
    z = math.sqrt(width / total) * math.exp(-((mean - TARGET) ** 2) / (2 * total))
    return z, (mean * width + TARGET * variance) / total, variance * width / total


def steered(plan, shape=(2000, 1), particles=8, **options):
    options = {"dtype": torch.float64, **options}
    return fastgen.steer(gaussian(), plan, quadratic, shape, particles, **options)


@pytest.mark.parametrize("solver", ["ddpm", "dpmpp_2m_sde", "stochastic_heun"])
def test_evidence_is_without_bias_and_averages_are_of_the_tilted_law(solver):
    plan = fastgen.plan(solver, SCHEDULE, 12)
    wanted, mean, variance = tilted(*law(plan))
    found = steered(plan, resample=0.8)
    estimates = found.log_evidence.exp()
    assert (found.ancestors != torch.arange(8)).any()  # particles were drawn anew
    assert abs(estimates.mean() - wanted) < 3 * estimates.std() / len(estimates) ** 0.5
    for power, expected in ((1, mean), (2, variance + mean**2)):
        values = estimates * (found.weights * found.samples[..., 0] ** power).sum(1)
        error = (values - expected * estimates).std() / len(values) ** 0.5
        assert abs(values.mean() - expected * wanted) < 3 * error + 3 * expected * (
            estimates.std() / len(values) ** 0.5
        )


@pytest.mark.parametrize(
    "options",
    [
        {"potential": "max", "scale": 0.15},
        {"potential": "sum", "scale": 0.02, "resample": 1.0},
        {"scale": lambda t: 0.5 * (1 - t) ** 2, "every": 3, "interval": (0.1, 0.8)},
    ],
)
def test_every_potential_and_scale_has_the_same_target(options):
    """The factor at the end makes up for whatever was given on the way."""
    plan = fastgen.plan("ddpm", SCHEDULE, 10)
    scale = options["scale"]
    wanted, _, _ = tilted(*law(plan), scale(0.0) if callable(scale) else scale)
    found = steered(plan, (4000, 1), 4, **{"resample": 0.99, **options})
    assert (found.sample_ids[-1] >= 2**36).any()
    estimates = found.log_evidence.exp()
    assert abs(estimates.mean() - wanted) < 3 * estimates.std() / len(estimates) ** 0.5


def test_many_particles_are_samples_of_the_tilted_law():
    plan = fastgen.plan("ddpm", SCHEDULE, 12)
    wanted, mean, variance = tilted(*law(plan))
    found = steered(plan, (1, 1), 20_000)
    x, weights = found.samples[0, :, 0], found.weights[0]
    assert abs(found.log_evidence.exp() - wanted) < 0.02
    assert abs((weights * x).sum() - mean) < 0.03
    assert abs((weights * (x - mean) ** 2).sum() - variance) < 0.03
    drawn = steered(plan, (4000, 1), 16).drawn[:, 0]
    assert abs(drawn.mean() - mean) < 5 * (variance / 4000) ** 0.5 + 0.02


def conditional(x, t, shift=0.0, scale=1.0):
    """Row by row in elementwise operations, so that a batch's size changes no bit."""
    return 0.5 * x * scale * (1 - t[:, None]) + 0.1 * shift


MODES = {
    "plain": {},
    "rows": {"net_kwargs": {"shift": torch.arange(3.0)[:, None]}},
    "seeds": {"seed": [5, 6, 7], "sample_ids": [4, 2**30, 0]},
    "guided": {"guidance": Guidance(2.0, {"shift": torch.ones(3, 1)}), "net_kwargs": {"shift": 0}},
    "scales": {"guidance": Guidance(torch.tensor([1.0, 2.0, 3.0]), {"shift": 1.0}, batched=False)},
    "momentum": {"guidance": Guidance(2.0, {"shift": 1.0}, rule=APG(momentum=-0.5), batched=False)},
    "transformed": {"transform": lambda data, t: data.tanh()},
    "max": {"potential": "max", "every": 2},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("solver", ["ddpm", "dpmpp_2m_sde"])
def test_any_particle_is_drawn_again_alone_from_its_lineage(mode, solver):
    """Bit for bit: solvers with a history take it along when particles are drawn anew."""
    model = fastgen.Model(conditional, SCHEDULE, "data", per_sample=())
    plan = fastgen.plan(solver, SCHEDULE, 8)
    options = {"resample": 1.0, "scale": 3.0, "seed": 3, **MODES[mode]}
    found = fastgen.steer(model, plan, lambda x: x.sum(1), (3, 2), 5, **options)
    moved = found.ancestors != torch.arange(5)
    assert moved.any(2).any(0).all()
    lineage = found.lineage
    assert lineage.shape == found.sample_ids.shape == (len(found.times) + 1, 3, 5)
    for sample in range(3):
        assert len(set(lineage[-1, sample].tolist())) == 5
        for particle in (0, 3):
            assert torch.equal(found.redraw(sample, particle), found.samples[sample, particle])


def test_learned_variances_follow_their_particles():
    def net(x, t):
        return torch.cat([0.4 * x, x.tanh()], 1)

    schedule = schedules.DiscreteVP.linear()
    model = fastgen.Model(net, schedule, "noise", learned_variance=True)
    plan = fastgen.plan("ddpm", schedule, 6, variance="learned")
    reward = {"scale": 2.0, "resample": 1.0}
    found = fastgen.steer(model, plan, lambda x: x.mean((1, 2)), (2, 3, 4), 4, **reward)
    assert (found.sample_ids[-1] >= 2**36).all()
    assert torch.equal(found.redraw(1, 2), found.samples[1, 2])


def test_systems_do_not_depend_on_each_other():
    plan = fastgen.plan("ddpm", SCHEDULE, 10)
    order = torch.tensor([2, 0, 3, 1])
    one, other = steered(plan, (4, 3)), steered(plan, (4, 3), sample_ids=order)
    alone = steered(plan, (1, 3), sample_ids=[2])
    for name in ("samples", "rewards", "log_weights", "log_evidence", "chosen"):
        assert torch.equal(getattr(one, name)[order], getattr(other, name)), name
        assert torch.equal(getattr(one, name)[2:3], getattr(alone, name)), name
    assert torch.equal(one.ancestors[:, order], other.ancestors)
    assert not torch.equal(steered(plan, (4, 3), seed=1).samples, one.samples)


def test_evaluations_are_those_of_all_particles():
    rows = []

    def net(x, t):
        rows.append(len(x))
        return denoiser(x, t)

    model = fastgen.Model(net, SCHEDULE, "data", time_dtype=torch.float64)
    plan = fastgen.plan("ddpm", SCHEDULE, 7)
    fastgen.steer(model, plan, quadratic, (3, 1), 4)
    assert rows == [12] * 7
    fastgen.best_of(model, plan, quadratic, (3, 1), 4)
    assert rows == [12] * 14


def test_steering_beats_the_best_of_as_many():
    """A reward that few samples have: drawing anew on the way finds more of it."""
    plan = fastgen.plan("ddpm", SCHEDULE, 20)
    rare = lambda x: -(x - 1.5).square().sum(1)  # noqa: E731
    run = {"seed": 4, "dtype": torch.float64}
    best = fastgen.best_of(gaussian(), plan, rare, (200, 8), 8, **run)
    steering = fastgen.steer(gaussian(), plan, rare, (200, 8), 8, scale=2.0, **run)
    gained = steering.rewards.amax(1) - best.rewards.amax(1)
    assert gained.mean() > 5 * gained.std() / 200**0.5


def test_best_of_is_a_batch_of_a_sampler():
    plan = fastgen.plan("dpmpp_2m", SCHEDULE, 6)
    found = fastgen.best_of(gaussian(), plan, quadratic, (3, 1), 4, seed=9)
    assert torch.equal(
        found.samples.flatten(0, 1), fastgen.Sampler(gaussian(), plan)((12, 1), seed=9)
    )
    assert torch.equal(found.best[:, 0], found.samples[torch.arange(3), found.rewards.argmax(1), 0])
    assert torch.equal(found.redraw(2, 1), found.samples[2, 1])
    assert not found.times
    assert found.ancestors.shape == (0, 3, 4)


def test_systematic_resampling_takes_whole_parts_and_is_even_on_average():
    weights = torch.tensor([[0.1, 0.45, 0.05, 0.4]], dtype=torch.float64)
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    counts = torch.stack(
        [torch.bincount(systematic(weights.log(), v[None])[0], minlength=4) for v in u]
    )
    # 4 w = .4, 1.8, .2, 1.6
    assert ((counts >= torch.tensor([0, 1, 0, 1])) & (counts <= torch.tensor([1, 2, 1, 2]))).all()
    assert torch.allclose(counts.double().mean(0), 4 * weights[0], atol=1e-3)
    assert torch.allclose(effective(weights.log()), 1 / weights.square().sum(1))


def test_noise_that_is_drawn_twice_is_not_cut():
    """Two evaluations of Heun's step share a noise: particles are drawn anew before it alone."""
    plan = fastgen.plan("stochastic_heun", SCHEDULE, 4)
    prepared = Prepared(gaussian(), plan, None, None, "draws", torch.float32, None)
    assert points_of(prepared) == [0, 2, 4]

    def shared(p: Builder, times):
        z = p.noise(times[0], times[-1])
        x = p.let(p.initial() + 0.1 * z)
        for s, t in pairwise(times):
            x = p.state(p.alpha(t) * p.denoise(x, s) + p.sigma(t) * z, t)
        return x

    plan = fastgen.plan(Solver("shared", shared, None, "1", True, ""), SCHEDULE, 3)
    with pytest.raises(ValueError, match=r"plan: every noise of .* choose one that adds noise"):
        fastgen.steer(gaussian(), plan, quadratic, (2, 1))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"solver": "ddim"}, ValueError, "plan: 'ddim' adds no noise.*ddpm.*best_of"),
        ({"reward": lambda x: x}, ValueError, r"reward: expected a number for each of 8 samples"),
        ({"reward": lambda x: 1.0}, ValueError, r"reward: expected .* got 1.0"),
        ({"reward": lambda x: x[:, 0] / 0}, ValueError, "reward: 8 of 8 numbers are not finite"),
        ({"reward": lambda x: x[:, 0] * math.nan}, ValueError, "not finite at t="),
        ({"reward": None}, TypeError, "reward"),
        ({"particles": 0}, ValueError, "particles=0"),
        ({"resample": 0.0}, ValueError, "resample=0.0"),
        ({"potential": "mean"}, ValueError, "potential='mean'"),
        ({"scale": math.inf}, ValueError, "scale=inf"),
        ({"scale": lambda t: None}, TypeError, "scale: expected a number"),
        ({"every": 0}, ValueError, "every=0"),
        ({"interval": (0.3, 0.2)}, ValueError, "interval=.*no step of the plan lies in it"),
        ({"sample_ids": [2**40, 0]}, ValueError, r"sample_ids: 1099511627776 with particles=4"),
        ({"guidance": Guidance(torch.ones(3), {"shift": 1.0})}, ValueError, "3 scales"),
    ],
)
def test_what_is_refused(options, error, says):
    plan = fastgen.plan(options.pop("solver", "ddpm"), SCHEDULE, 4)
    options = {"reward": quadratic, "particles": 4, **options}
    with pytest.raises(error, match=says):
        fastgen.steer(gaussian(), plan, shape=(2, 1), **options)
