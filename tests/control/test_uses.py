"""Denoising, restoring, scores and class posteriors against Gaussians' closed forms."""

import math
from itertools import pairwise

import pytest
import torch

import fastgen
from fastgen import control, observations, schedules
from tests.support.gaussian_posterior import GaussianPrior, given

SCHEDULES = [schedules.LinearVP(), schedules.EDM(), schedules.Rectified()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_denoise_is_the_mean_by_one_call(schedule):
    prior = GaussianPrior.correlated()
    calls = []
    model = prior.model(schedule)
    inner = model.net
    model.net = lambda x, t: calls.append(t) or inner(x, t)
    y = torch.randn(3, 6, dtype=torch.float64)
    found = control.denoise(model, y, 0.7)
    eye = torch.eye(6, dtype=torch.float64)
    wanted, covariance = given(prior.mean.expand(3, 6), prior.covariance, eye, y, 0.7)
    assert len(calls) == 1
    assert torch.allclose(found, wanted, atol=1e-9)
    drawn = control.denoise(model, y[:1].expand(3000, 6), 0.7, steps=40, dtype=torch.float64)
    error = 5 * covariance.diagonal().sqrt() / 3000**0.5
    assert ((drawn.mean(0) - wanted[0]).abs() < error + 0.01).all()
    spread = (drawn.T.cov() - covariance).abs().max()
    # And what 40 steps of first order leave.
    assert spread < 5 * covariance.diagonal().max() * (2 / 3000) ** 0.5 + 0.03


def test_restoration_has_the_posteriors_spread():
    prior, matrix = GaussianPrior.correlated(), torch.tensor([[1.0, 1, 0, 0, 0, 0]]).double()
    seen = observations.Linear(observations.matrix(matrix, (6,)), y=torch.ones(1, 1), noise=0.2)
    model = prior.model(schedules.LinearVP())
    found = control.restore(model, seen, (6,), 1500, steps=50, seed=3)
    y = torch.ones(1, 1, dtype=torch.float64)
    wanted, covariance = given(prior.mean[None], prior.covariance, matrix, y, 0.2)
    std = covariance.diagonal().sqrt()
    assert ((found.mean - wanted[0]).abs() < 5 * std / 1500**0.5 + 0.01).all()
    assert torch.allclose(found.std.double(), std, rtol=0.1)
    low, high = found.interval(0.9)
    assert torch.allclose((high - low).double(), 2 * 1.6449 * std, rtol=0.15)
    some = control.restore(model, seen, (6,), 5, batch=2, steps=50, seed=3)
    assert torch.allclose(some.samples, found.samples[:5], atol=1e-4)
    q = found.samples.quantile(torch.tensor([0.05, 0.95]), 0)
    assert torch.allclose(low, q[0], atol=1e-5)
    assert torch.allclose(high, q[1], atol=1e-5)
    assert "samples=float32[1500, 6]" in repr(found)


def test_denoising_error_is_the_bound_but_for_its_ends():
    """Differences of the bound are those of -log p where the ends have none."""
    prior = GaussianPrior(torch.eye(4, dtype=torch.float64), torch.zeros(4))
    model = prior.model(schedules.LinearVP())
    x = torch.tensor([[0.0, 0, 0, 0], [1.0, 0, 0, 0], [2.0, 2, 0, 0]]).double()
    many, ids = x.repeat_interleave(400, 0), list(range(400)) * 3
    found = control.denoising_error(model, many, levels=64, sample_ids=ids)
    errors = found.reshape(3, 400).mean(1)
    wanted = x.square().sum(1) / 2
    assert torch.allclose(errors - errors[0], wanted, atol=0.15)
    exact = -fastgen.log_likelihood(model, x, dtype=torch.float64)
    assert torch.allclose(exact - exact[0], wanted, atol=1e-3)


def test_strange_samples_have_high_scores():
    g = torch.Generator().manual_seed(0)
    prior = GaussianPrior.correlated()
    root = torch.linalg.cholesky(prior.covariance)
    usual = prior.mean + torch.randn(200, 6, generator=g, dtype=torch.float64) @ root.T
    strange = usual[:50] + torch.tensor([3.0, -3, 3, 3, -3, 3]).double()
    model = prior.model(schedules.LinearVP())
    for score, options in (
        ("denoising", {}),
        ("likelihood", {"rtol": 1e-2, "atol": 1e-2}),
        ("path_length", {}),
    ):
        kept = {"reference": usual[100:], **options}
        low = control.anomaly_score(model, usual[:50], score, **kept)
        high = control.anomaly_score(model, strange, score, **kept)
        right = (high[:, None] > low).double().mean()
        assert right > 0.95, score
    assert torch.equal(
        control.anomaly_score(model, usual[:5]), control.denoising_error(model, usual[:5])
    )


def test_path_length_of_a_point():
    """Data that are all 0: eps^ = x / sigma is the same all the way, a path of length 0."""
    model = fastgen.Model(lambda x, t: 0 * x, schedules.EDM(), "data", time_dtype=torch.float64)
    length = control.path_length(model, torch.ones(2, 3, dtype=torch.float64))
    assert length.abs().max() < 1e-9
    half = fastgen.Model(lambda x, t: 0.5 * x, schedules.VE(), "data", time_dtype=torch.float64)
    schedule, x = schedules.VE(), 1.0
    low = max(0.01, schedule.ratio(schedule.t_min))
    high = min(100.0, schedule.ratio(1.0))
    grid = [low * (high / low) ** (i / 4) for i in range(5)]
    noises = []
    for s, t in zip(grid, [*grid[1:], None], strict=True):
        noises.append(x / 2 / s)
        x += (t - s) * noises[-1] if t else 0
    wanted = sum(abs(b - a) for a, b in pairwise(noises))
    found = control.path_length(half, torch.ones(1, 3, dtype=torch.float64), steps=4)
    assert math.isclose(float(found[0]), wanted, rel_tol=1e-6)


def test_class_posterior_is_bayes_rule():
    schedule = schedules.LinearVP()
    means = torch.tensor([[0.0, 0.0], [1.5, 0.0], [0.0, 1.5]]).double()

    def net(x, t, c):
        a, s = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        return means[c] + a / (a**2 + s**2) * (x - a * means[c])

    model = fastgen.Model(net, schedule, "data", time_dtype=torch.float64)
    x = torch.tensor([[0.2, 0.1], [2.2, 0.3], [0.2, 2.1]]).double()
    prior = torch.tensor([0.5, 0.25, 0.25])
    wanted = (prior.double().log() - (x[:, None] - means).square().sum(2) / 2).softmax(1)
    options = {"dtype": torch.float64, "rtol": 1e-6, "atol": 1e-6}
    found = control.class_posterior(
        model, x, 3, lambda c: {"c": c}, "likelihood", prior=prior, **options
    )
    assert torch.allclose(found, wanted, atol=5e-3)  # alpha is .007 where the flow ends
    rough = control.class_posterior(model, x, 3, lambda c: {"c": c}, prior=prior, levels=200)
    assert (rough.argmax(1) == wanted.argmax(1)).all()
    assert torch.allclose(rough.sum(1), torch.ones(3).double())


def test_whole_times_are_found():
    schedule, told = schedules.DiscreteVP.linear(100), []

    def net(x, t):
        told.append(t)
        return 0.1 * x

    model = fastgen.Model(net, schedule, "noise", time_input="index", time_dtype=torch.int64)
    control.denoise(model, torch.ones(1, 2), 0.5)
    control.denoising_error(model, torch.ones(1, 2), levels=4)
    control.path_length(model, torch.ones(1, 2), steps=4)
    assert len(told) == 1 + 4 + 5
    assert all(t.dtype == torch.int64 for t in told)


def test_errors():
    model = GaussianPrior.correlated().model(schedules.LinearVP())
    y = torch.zeros(2, 6)
    seen = observations.Mask(y, torch.ones(6))
    for call, match in (
        (lambda: control.denoise(model, y, 1e9), "has at most sigma / alpha"),
        (lambda: control.denoise(model, y, -1.0), "noise=-1.0"),
        (lambda: control.restore(model, seen, (6,)), "known has 2 rows; restore one at a time"),
        (lambda: control.restore(model, seen, (6,), 1), "samples=1"),
        (lambda: control.anomaly_score(model, y, "path_length"), "reference: a path may be"),
        (lambda: control.anomaly_score(model, y, "density"), "score='density'"),
        (lambda: control.anomaly_score(model, y, reference=y[:1]), "at least 2 samples"),
        (lambda: control.denoising_error(model, y, levels=0), "levels=0"),
        (
            lambda: control.class_posterior(model, y, 2, dict, prior=torch.ones(3)),
            "prior: expected 2 weights",
        ),
        (lambda: control.Restoration(y).interval(1.0), "probability=1.0"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    for call in (
        lambda: control.denoise(model, y, 0.5, eta=1.0),
        lambda: control.restore(model, seen, (6,), sample_ids=[1]),
        lambda: control.class_posterior(model, y, 2, 3),
    ):
        with pytest.raises(TypeError):
            call()
