"""DDRM: moments of its steps in closed form, what is known exactly, and what it refuses."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

import fastgen
from fastgen import observations, schedules
from fastgen.control import DDRM
from fastgen.observations import Linear, Mask
from tests.support.gaussian_posterior import GaussianPrior

VP, STEPS, COUNT, NUMBERS = schedules.LinearVP(), 7, 20_000, 5
# Singular values 2, .8 and .2, and a row that says nothing new.
U = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)).double())[0]
V = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(2)).double())[0]
VALUES = torch.tensor([2.0, 0.8, 0.2, 0.0]).double()
MATRIX = U @ torch.diag(VALUES) @ V[:, :4].T
TRUTH = torch.tensor([[0.5, -1.0, 0.3, 0.8, -0.4]]).double()


def white(variance=0.6):
    return GaussianPrior(variance * torch.eye(NUMBERS, dtype=torch.float64), torch.zeros(NUMBERS))


def moments(seen, values, noise, eta, eta_b, variance=0.6):
    """Mean and variance in each singular direction: D is v / (v + r^2) x there."""
    ratios = [VP.ratio(t) for t in fastgen.plan("ddpm", VP, STEPS).times.tolist()]
    found = []
    for y, w in zip(seen.tolist(), values.tolist(), strict=True):
        least = noise / w if w else math.inf
        known = w > 0 and ratios[0] >= least
        m, p = (y, ratios[0] ** 2 - least**2) if known else (0.0, ratios[0] ** 2)
        for r, after in pairwise(ratios):
            c = variance / (variance + r**2)
            kept = math.sqrt(1 - eta**2)
            if w == 0:
                factor, add, fresh = c + kept * after / r * (1 - c), 0.0, (eta * after) ** 2
            elif after < least:
                share = kept * after / least
                factor, add, fresh = c * (1 - share), share * y, (eta * after) ** 2
            else:
                factor, add = (1 - eta_b) * c, eta_b * y
                fresh = max(after**2 - (eta_b * least) ** 2, 0.0)
            m, p = factor * m + add, factor**2 * p + fresh
        found.append((m, p))
    return torch.tensor(found, dtype=torch.float64).T


@pytest.mark.parametrize(("eta", "eta_b"), [(0.85, 1.0), (0.3, 0.6), (1.0, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_moments_in_every_singular_direction(eta, eta_b, noise):
    y = TRUTH @ MATRIX.T
    seen = Linear(observations.matrix(MATRIX, (NUMBERS,)), y=y, noise=noise)
    options = {"steps": STEPS, "seed": 3, "dtype": torch.float64}
    method = DDRM(eta, eta_b)
    x = fastgen.posterior(white().model(VP), seen, (COUNT, NUMBERS), method, **options) @ V
    along = torch.cat([(y @ U)[0, :3] / VALUES[:3], torch.zeros(2)]).double()
    values = torch.cat([VALUES, torch.zeros(1)]).double()
    mean, variance = moments(along, values, noise, eta, eta_b)
    assert ((x.mean(0) - mean).abs() <= 5 * (variance / COUNT).sqrt() + 1e-9).all()
    spread = 5 * variance * (2 / COUNT) ** 0.5 + 1e-12
    assert ((x.var(0) - variance).abs() <= spread).all()


@pytest.mark.parametrize("schedule", [VP, schedules.CosineVP(), schedules.Rectified()])
def test_a_mask_is_the_matrix_of_its_rows(schedule):
    mask = torch.tensor([True, False, True, True, False])
    rows = torch.eye(NUMBERS, dtype=torch.float64)[mask]
    options = {"steps": 6, "seed": 3, "dtype": torch.float64}
    shape, model = (4, NUMBERS), white().model(schedule)
    for noise in (0.0, 0.2):
        by_mask = fastgen.posterior(model, Mask(TRUTH, mask, noise), shape, "ddrm", **options)
        matrix = observations.matrix(rows, (NUMBERS,))
        seen = Linear(matrix, y=TRUTH[:, mask], noise=noise)
        by_rows = fastgen.posterior(model, seen, shape, "ddrm", **options)
        torch.testing.assert_close(by_mask, by_rows, rtol=0, atol=1e-9)
        if not noise:
            torch.testing.assert_close(by_mask[:, mask], TRUTH[:, mask].expand(4, -1))
        row = fastgen.posterior(
            model, Mask(TRUTH, mask, noise), (1, NUMBERS), "ddrm", sample_ids=[2], **options
        )
        torch.testing.assert_close(row, by_mask[2:3], rtol=1e-12, atol=1e-12)


def test_images_of_observations_of_their_own():
    """Without noise what is seen is what was observed, of each sample."""
    truth = fastgen.randn((3, 1, 4, 4), seed=1)
    pool = observations.average_pool(2)
    prior = GaussianPrior(torch.eye(16, dtype=torch.float64), torch.zeros(16)).model(VP)
    model = fastgen.Model(
        lambda x, t: prior.net(x.flatten(1), t).reshape(x.shape), VP, "data",
        time_dtype=torch.float64,
    )  # fmt: skip
    seen = Linear(pool, y=pool(truth))
    x = fastgen.posterior(model, seen, (3, 1, 4, 4), "ddrm", steps=5)
    torch.testing.assert_close(pool(x), pool(truth), rtol=0, atol=1e-5)
    assert x.dtype == torch.float32


@pytest.mark.parametrize("count", [0, 1])
def test_batches_of_none_and_of_one_in_inference_mode(count):
    seen = Linear(observations.matrix(MATRIX, (NUMBERS,)), y=TRUTH @ MATRIX.T, noise=0.1)
    options = {"steps": 4, "seed": 3, "dtype": torch.float64}
    for observation in (seen, Mask(TRUTH, torch.tensor([1.0, 0, 1, 0, 0]), 0.1)):
        with torch.inference_mode():
            x = fastgen.posterior(
                white().model(VP), observation, (count, NUMBERS), "ddrm", **options
            )
        more = fastgen.posterior(white().model(VP), observation, (3, NUMBERS), "ddrm", **options)
        assert x.shape == (count, NUMBERS)
        torch.testing.assert_close(x, more[:count], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DDRM(eta=1.5), "eta=1.5: expected a number in"),
        (lambda: drawn(Mask(TRUTH, torch.full((5,), 0.5))), "takes masks of 0 and 1"),
        (lambda: drawn(Mask(TRUTH, torch.ones(5), torch.rand(5))), "one standard deviation"),
        (lambda: drawn(observations.Nonlinear(torch.sin, y=TRUTH)), "needs a linear observation"),
        (lambda: drawn(Mask(TRUTH, torch.ones(5)), "heun"), "DDRM has steps of its own"),
        (
            lambda: observations.conditioned(white().model(VP), Mask(TRUTH, torch.ones(5)), "ddrm"),
            "it has steps of its own",
        ),
        (
            lambda: fastgen.posterior(
                fastgen.Model(lambda x, t: x, VP, "data"),
                Linear(lambda x: x[:, :2], y=torch.zeros(1, 2)), (1, 5000), "ddrm", steps=2,
            ),
            "of at most 4096 numbers, got 5000",
        ),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def drawn(seen, solver="ddpm"):
    return fastgen.posterior(white().model(VP), seen, (2, NUMBERS), "ddrm", solver, 3)
