"""Likelihoods of data whose density is known, under ideal networks of every kind."""

import math

import numpy as np
import pytest
import torch

import fastgen
from fastgen import schedules
from fastgen.likelihood.divergence import Divergence
from tests.support.mixtures import (
    MEANS,
    PREDICTIONS,
    SCHEDULES,
    STDS,
    Mixture,
    between,
    model_of,
    points,
)

TIGHT = {"rtol": 1e-6, "atol": 1e-6, "dtype": torch.float64}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_mixture_on_every_schedule_and_prediction(schedule, predicts):
    model, (options, end) = model_of(schedule, predicts), between(schedule)
    x = points(3)
    found = fastgen.log_likelihood(model, x, **options, **TIGHT)
    exact = model.net.log_density(x, torch.full((3,), end).double())[0]
    assert torch.allclose(found, exact, atol=1e-4)


@pytest.mark.parametrize("predicts", ["noise", "v"])
def test_mixture_on_a_discrete_schedule(predicts):
    """The velocity jumps at each of a thousand knots, which an embedded error cannot see."""
    schedule = schedules.DiscreteVP.linear(1000)
    model, (options, end) = model_of(schedule, predicts), between(schedule)
    x = points(2)
    found = fastgen.log_likelihood(
        model, x, rtol=1e-5, atol=1e-5, dtype=torch.float64, max_step=0.02, **options
    )
    exact = model.net.log_density(x, torch.full((2,), end).double())[0]
    assert torch.allclose(found, exact, atol=1e-3)


@pytest.mark.parametrize("data_at", [0, 1])
def test_gaussian_from_data_to_noise(data_at):
    """Without a prior of one's own: the flow's latent is exactly N(0, 1)."""
    schedule = schedules.Rectified()
    model = model_of(schedule, "velocity", single=True, data_at=data_at)
    x = points()
    found = fastgen.log_likelihood(model, x, start=1.0, end=1e-6, return_solution=True, **TIGHT)
    apart = (x - MEANS[0]) / STDS[0]
    exact = -0.5 * apart.square().sum(1) - math.log(2 * math.pi) - 2 * torch.log(STDS[0])
    assert torch.allclose(found.log_prob, exact, atol=1e-4)
    assert torch.allclose(found.latent, apart, atol=1e-4)
    assert torch.allclose(found.bits_per_dimension, -exact / (2 * math.log(2)), atol=1e-4)
    assert (found.standard_error == 0).all()
    assert found.solution.success.all()


def test_density_integrates_to_one():
    schedule = schedules.LinearVP()
    options, _ = between(schedule)
    axis = torch.linspace(-4, 4, 41).double()
    grid = torch.cartesian_prod(axis, axis)
    found = fastgen.log_likelihood(
        model_of(schedule, "noise"), grid, **options, rtol=1e-5, atol=1e-5, dtype=torch.float64
    )
    assert (found.exp().sum() * 0.2**2).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("divergence", ["hutchinson", "hutch++"])
def test_estimates_are_unbiased_and_know_their_error(divergence):
    """Rademacher probes are exact for diagonal Jacobians, so the flow is rotated off its axes."""
    schedule = schedules.Rectified()
    options, end = between(schedule)
    model = model_of(schedule, "velocity")
    count = 6 if divergence == "hutch++" else 4
    x = points(1).expand(200, 2)
    found = fastgen.log_likelihood(
        model, x, divergence=divergence, probes=count, return_solution=True, **options, **TIGHT
    )
    exact = model.net.log_density(x[:1], torch.tensor([end]).double())[0]
    if divergence == "hutch++":  # two directions span the plane: nothing is left to estimate
        assert (found.log_prob - exact).abs().median() < 1e-4
        return
    spread = found.log_prob.std() / math.sqrt(200)
    assert spread > 1e-4
    assert abs(found.log_prob.mean() - exact) < 4 * spread
    claimed = found.standard_error.square().mean().sqrt()
    assert claimed.item() == pytest.approx(found.log_prob.std().item(), rel=0.25)


def test_probes_belong_to_samples():
    """A row alone, in another batch, or under its id: the same number."""
    schedule = schedules.Rectified()
    options, _ = between(schedule)
    model = model_of(schedule, "velocity")
    settings = {"divergence": "hutchinson", "probes": 2, "seed": 9, **options, **TIGHT}
    x = points(5)
    batch = fastgen.log_likelihood(model, x, **settings)
    alone = fastgen.log_likelihood(model, x[3:4], sample_ids=[3], **settings)
    assert torch.allclose(alone, batch[3:4], atol=1e-12)
    other = fastgen.log_likelihood(model, x, **{**settings, "seed": 10})
    assert (other - batch).abs().max() > 1e-3


def test_hutchplusplus_finds_low_rank_traces_exactly():
    generator = torch.Generator().manual_seed(2)
    factors = torch.randn(2, 9, 2, generator=generator, dtype=torch.float64)
    matrix = factors[0] @ factors[1].T
    x = torch.randn(3, 9, dtype=torch.float64, generator=generator)
    rows = torch.arange(3)
    for kind, probes, tolerance in (("exact", None, 1e-12), ("hutch++", 9, 1e-9)):
        estimate = Divergence(kind, probes, 4, x, 0, None)
        value, found = estimate(lambda x: x @ matrix.T, x, rows)
        assert torch.allclose(value, x @ matrix.T)
        assert torch.allclose(found, matrix.trace().expand_as(found), atol=tolerance)


def test_one_network_call_gives_value_and_divergence():
    calls = []
    schedule = schedules.Rectified()
    net = Mixture(schedule, "velocity")

    def counted(x, t):
        calls.append(len(x))
        return net(x, t)

    model = fastgen.Model(counted, schedule, "velocity", dtype=torch.float64)
    options, _ = between(schedule)
    found = fastgen.log_likelihood(
        model, points(), divergence="hutchinson", return_solution=True, **options, **TIGHT
    )
    del calls[1:4]  # after the first evaluation: whether autograd saw all of the derivative
    assert len(calls) == found.solution.stats.calls
    assert sum(calls) == found.solution.stats.rows == int(found.solution.stats.evaluations.sum())


def test_conditional_models_keep_conditions_with_their_samples():
    schedule = schedules.Rectified()
    options, _ = between(schedule)
    model = model_of(schedule, "velocity")
    shift = torch.linspace(-1, 1, 5).double()[:, None].expand(5, 2)
    del options["prior"]
    x = points(5)
    found = fastgen.log_likelihood(model, x, net_kwargs={"shift": shift}, **options, **TIGHT)
    for i in range(5):
        alone = fastgen.log_likelihood(
            model, x[i : i + 1], net_kwargs={"shift": shift[i : i + 1]}, **options, **TIGHT
        )
        assert torch.allclose(alone, found[i : i + 1], atol=1e-12)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_joint_steps_follow_the_same_flow(divergence):
    """One step size and one time for the whole batch, conditions included."""
    schedule = schedules.Rectified()
    options, _ = between(schedule)
    model, x = model_of(schedule, "velocity"), points(5)
    shift = torch.linspace(-1, 1, 5).double()[:, None].expand(5, 2)
    options |= TIGHT | {"divergence": divergence, "net_kwargs": {"shift": shift}}
    joint = fastgen.log_likelihood(model, x, step="joint", return_solution=True, **options)
    assert len(joint.solution.stats.evaluations) == 1
    assert torch.allclose(joint.log_prob, fastgen.log_likelihood(model, x, **options), atol=1e-6)


def test_gradients_for_data_and_parameters():
    """d log p / dx is the score."""
    schedule = schedules.Rectified()
    options, end = between(schedule)
    model = model_of(schedule, "velocity")
    x = points(3).requires_grad_()
    found = fastgen.log_likelihood(model, x, differentiable=True, **options, **TIGHT)
    score, shift = torch.autograd.grad(found.sum(), (x, model.net.shift))
    exact = model.net.log_density(x, torch.full((3,), end).double())[0]
    (expected,) = torch.autograd.grad(exact.sum(), x)
    assert torch.allclose(score, expected, atol=1e-4)
    assert shift.abs() > 1e-3
    assert not fastgen.log_likelihood(model, x, **options, **TIGHT).requires_grad


def test_dequantisation():
    """Bits of a uniform density over all levels are log2(levels)."""
    schedule = schedules.Rectified()
    model = model_of(schedule, "velocity", single=True)
    levels = 16
    centres = (2 * torch.arange(levels).double() + 1) / levels - 1
    x = torch.cartesian_prod(centres, centres)
    found = fastgen.log_likelihood(
        model, x, dequantise=levels, start=1.0, end=1e-6, return_solution=True, **TIGHT
    )
    start = found.solution.ys[0][0]
    assert ((start - x).abs() <= 1 / levels).all()
    assert (start - x).std().item() == pytest.approx(2 / levels / math.sqrt(12), rel=0.1)
    bits = -found.log_prob / (2 * math.log(2)) + math.log2(levels / 2)
    assert torch.allclose(found.bits_per_dimension, bits)


def test_errors():
    schedule = schedules.Rectified()
    model, x = model_of(schedule, "velocity"), points()
    for options, message in (
        ({"divergence": "hutchinsen"}, "did you mean 'hutchinson'"),
        ({"probes": 3}, "'exact' has none"),
        ({"divergence": "hutch++", "probes": 4}, "multiple of 3"),
        ({"divergence": "hutch++", "probes": 9}, "spans all 2"),
        ({"dequantise": 1}, "at least 2 levels"),
        ({"start": 1.5}, "start=1.5"),
        ({"chunk": 0}, "chunk=0"),
    ):
        with pytest.raises(ValueError, match=message):
            fastgen.log_likelihood(model, x, **options)
    with pytest.raises(TypeError, match="toll"):
        fastgen.log_likelihood(model, x, toll=1)
    with pytest.raises(ValueError, match=r"x: expected floating \[B, ...\]"):
        fastgen.log_likelihood(model, torch.zeros(3))
    noise = model_of(schedule, "noise")
    with pytest.raises(ValueError, match="velocity cannot be computed"):
        fastgen.log_likelihood(noise, x)


def test_variational_bound_of_a_gaussian():
    """With the ideal network the bound is finite-step optimal: it tightens towards -log p(x)."""
    gaps = []
    for steps in (10, 40, 160):
        # Equal steps of the log signal-to-noise ratio, from 10 to -8.
        kept = torch.sigmoid(torch.linspace(10, -8, steps).double())
        betas = 1 - kept / torch.cat([torch.ones(1).double(), kept[:-1]])
        schedule = schedules.DiscreteVP(betas.tolist())
        model = model_of(schedule, "noise", single=True)
        generator = torch.Generator().manual_seed(0)
        x = MEANS[0] + STDS[0] * torch.randn(400, 2, generator=generator).double()
        bound = fastgen.variational_bound(model, x, variance="large")
        exact = -model.net.log_density(x, torch.zeros(400).double())[0].mean().item()
        gaps.append(bound.total.mean().item() - exact)
        assert bound.transitions.shape == (steps - 1, 400)
        assert (bound.transitions >= -1e-9).all()
        assert torch.allclose(bound.bits_per_dimension, bound.total / (2 * math.log(2)))
    # Beside the noise of one draw to a term, about 0.03.
    assert gaps[0] > gaps[2] + 0.03
    assert abs(gaps[2]) < 0.06
    assert min(gaps) > -0.06


def test_variational_bound_terms_against_their_definitions():
    schedule = schedules.DiscreteVP.linear(4, 0.05, 0.3)
    model = model_of(schedule, "data")
    x = points(3)
    bound = fastgen.variational_bound(model, x, variance="large", seed=3)
    t, s = 3 / 4, 2 / 4
    noise = fastgen.randn(x.shape, seed=3, draw=3, stream=2, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    state = alpha * x + sigma * noise
    data = model.net(state, torch.full((3,), t).double())
    beta = 1 - (alpha / schedule.alpha(s)) ** 2
    q = beta * schedule.sigma(s) ** 2 / sigma**2
    weight = schedule.alpha(s) * beta / sigma**2
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(
        normal(weight * x, math.sqrt(q)), normal(weight * data, math.sqrt(beta))
    )
    assert torch.allclose(bound.transitions[1], kl.sum(1))
    one = torch.distributions.kl_divergence(
        normal(schedule.alpha(1.0) * x, schedule.sigma(1.0)), normal(0.0, 1.0)
    )
    assert torch.allclose(bound.prior, one.sum(1))


def test_discretised_reconstruction_sums_to_one():
    """exp(-reconstruction) over all levels of one pixel is a distribution."""
    schedule = schedules.DiscreteVP.linear(3, 0.05, 0.3)
    levels = 8
    model = fastgen.Model(lambda x, t: torch.full_like(x, 0.3), schedule, "data")
    x = torch.linspace(-1, 1, levels).double()[:, None]
    bound = fastgen.variational_bound(model, x, levels=levels, variance="large")
    assert torch.exp(-bound.reconstruction).sum().item() == pytest.approx(1, abs=1e-7)
    assert np.isfinite(bound.reconstruction.numpy()).all()


def test_variational_bound_errors():
    x = points()
    with pytest.raises(ValueError, match="DiscreteVP"):
        fastgen.variational_bound(model_of(schedules.CosineVP(), "noise"), x)
    model = model_of(schedules.DiscreteVP.linear(10), "noise")
    with pytest.raises(ValueError, match="variance='tiny'"):
        fastgen.variational_bound(model, x, variance="tiny")
    with pytest.raises(ValueError, match="learned_variance=True"):
        fastgen.variational_bound(model, x, variance="learned")


def test_of_a_pair_of_networks():
    schedule = schedules.Rectified()
    velocity = model_of(schedule, "velocity")
    pair = fastgen.Model(
        lambda x, t: (velocity.net(x, t), torch.full_like(x, math.nan)),
        schedule,
        "velocity_and_score",
        time_dtype=velocity.time_dtype,
    )
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
    found, expected = (fastgen.log_likelihood(m, x, end=0.01) for m in (pair, velocity))
    assert torch.equal(found, expected)
