"""Each method's data prediction against its closed form, its paper's own formula, and azula."""

import math

import pytest
import torch

import fastgen
from fastgen import observations, schedules
from fastgen.observations import Linear, Mask, Nonlinear, conditioned
from tests.support.gaussian_posterior import GaussianPrior, given

SCHEDULES = [schedules.LinearVP(), schedules.EDM(), schedules.Rectified(), schedules.SubVP()]
TIMES = torch.tensor([0.05, 0.3, 0.6, 0.9], dtype=torch.float64)


def seeded(*shape, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def states(schedule, n=6):
    return schedule.alpha(TIMES)[:, None] * seeded(4, n, seed=7) + schedule.sigma(TIMES)[
        :, None
    ] * seeded(4, n, seed=8)


def predicted(prior, schedule, observation, method, predicts="data"):
    """The conditioned data prediction at `states`, each row at its own time."""
    model = conditioned(prior.model(schedule, predicts), observation, method)
    return model.net(states(schedule, len(prior.mean)), TIMES)


def projected(matrix):
    return (lambda x: x @ matrix.to(x).T), (lambda w: w @ matrix.to(w))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("predicts", ["data", "noise", "velocity"])
def test_mmps_is_the_posterior_mean_of_gaussian_data(schedule, predicts):
    prior, matrix, y = GaussianPrior.correlated(), seeded(3, 6, seed=2), seeded(1, 3, seed=3)
    observation = Linear(*projected(matrix), y=y, noise=0.3)
    found = predicted(prior, schedule, observation, observations.MMPS(3), predicts)
    wanted, _ = given(*prior.at(schedule, states(schedule), TIMES), matrix, y, 0.3)
    # Noise and velocity tell the data but for rounding by sigma / alpha, twice for the covariance.
    assert torch.allclose(found, wanted, rtol=0, atol=1e-7)


def test_mmps_of_a_mask_is_the_mean_given_the_known_numbers():
    prior, schedule = GaussianPrior.correlated(), schedules.CosineVP()
    mask, known = torch.tensor([1.0, 1, 0, 0, 1, 0]).double(), seeded(1, 6, seed=3)
    found = predicted(prior, schedule, Mask(known, mask), observations.MMPS(3))
    rows = torch.eye(6, dtype=torch.float64)[mask.bool()]
    wanted, _ = given(*prior.at(schedule, states(schedule), TIMES), rows, known[:, mask.bool()], 0)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_pigdm_is_exact_for_data_of_one_deviation(schedule):
    prior = GaussianPrior(0.7**2 * torch.eye(6, dtype=torch.float64), seeded(6))
    matrix, y = seeded(3, 6, seed=2), seeded(1, 3, seed=3)
    observation = Linear(*projected(matrix), y=y, noise=0.3)
    found = predicted(prior, schedule, observation, observations.PiGDM(0.7))
    wanted, _ = given(*prior.at(schedule, states(schedule), TIMES), matrix, y, 0.3)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-9)
    other = predicted(prior, schedule, observation, observations.PiGDM(1.4))
    assert (other - wanted).abs().max() > 0.01


def test_tmpd_is_exact_for_independent_numbers_and_a_mask():
    schedule = schedules.LinearVP()
    prior = GaussianPrior(torch.diag(torch.linspace(0.2, 2, 6, dtype=torch.float64)), seeded(6))
    mask, known = torch.tensor([1.0, 1, 0, 0, 1, 0]).double(), seeded(1, 6, seed=3)
    found = predicted(prior, schedule, Mask(known, mask, 0.3), observations.TMPD())
    rows = torch.eye(6, dtype=torch.float64)[mask.bool()]
    at = prior.at(schedule, states(schedule), TIMES)
    wanted, _ = given(*at, rows, known[:, mask.bool()], 0.3)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-9)


def test_dps_moves_along_the_gradient_of_the_papers_norm():
    prior, schedule = GaussianPrior.correlated(), schedules.LinearVP()
    matrix, y, x = seeded(3, 6, seed=2), seeded(1, 3, seed=3), states(schedule)
    observation = Linear(*projected(matrix), y=y)
    found = predicted(prior, schedule, observation, observations.DPS(50.0))
    x = x.requires_grad_()
    data, _ = prior.at(schedule, x, TIMES)
    norm = (y - data @ matrix.T).norm(dim=1)
    (gradient,) = torch.autograd.grad(norm.sum(), x)
    # The reverse SDE's drift has alpha g^2 / sigma^2 of the data prediction.
    g2, a, s = (
        f(TIMES)[:, None] for f in (schedule.diffusion_squared, schedule.alpha, schedule.sigma)
    )
    moved = a * g2 / s**2 * (found - data)
    assert torch.allclose(moved, -50.0 * gradient, rtol=1e-9, atol=1e-9)


def test_ddnm_fits_the_observation_and_leaves_the_null_space():
    prior, schedule = GaussianPrior.correlated(), schedules.LinearVP()
    matrix, y = seeded(3, 6, seed=2), seeded(1, 3, seed=3)
    for inverse in (None, lambda w: w @ torch.linalg.pinv(matrix).T):
        observation = Linear(*projected(matrix), y=y, pseudo_inverse=inverse)
        found = predicted(prior, schedule, observation, "ddnm")
        data, _ = prior.at(schedule, states(schedule), TIMES)
        assert torch.allclose(found @ matrix.T, y.expand(4, 3), atol=1e-9)
        null = torch.eye(6, dtype=torch.float64) - torch.linalg.pinv(matrix) @ matrix
        assert torch.allclose(found @ null, data @ null, atol=1e-9)
    noisy = predicted(prior, schedule, Linear(*projected(matrix), y=y, noise=2.0), "ddnm")
    # Each singular direction by its own weight.
    _, s, directions = torch.linalg.svd(matrix, full_matrices=False)
    share = s**2 / (s**2 + (2.0 / schedule.ratio(TIMES)[:, None]) ** 2)
    wanted = data + (found - data) @ directions.T * share @ directions
    assert torch.allclose(noisy, wanted, atol=1e-9)


def test_diffpir_is_the_minimiser_of_its_objective():
    prior, schedule = GaussianPrior.correlated(), schedules.LinearVP()
    matrix, y = seeded(3, 6, seed=2), seeded(1, 3, seed=3)
    observation = Linear(*projected(matrix), y=y, noise=0.3)
    found = predicted(prior, schedule, observation, observations.DiffPIR(2.0))
    data, _ = prior.at(schedule, states(schedule), TIMES)
    slope = (found @ matrix.T - y) @ matrix / 0.3**2
    slope = slope + 2.0 / schedule.ratio(TIMES)[:, None] ** 2 * (found - data)
    assert slope.abs().max() < 1e-7 * (y @ matrix).abs().max() / 0.3**2


def test_replacement_and_soft_weights():
    prior, schedule = GaussianPrior.correlated(), schedules.LinearVP()
    weights, known = torch.tensor([1.0, 0.5, 0.0, 0.25, 1.0, 0.0]).double(), seeded(1, 6, seed=3)
    data, _ = prior.at(schedule, states(schedule), TIMES)
    wanted = data + weights * (known - data)
    for method in ("replacement", "ddnm", "diffpir"):
        assert torch.allclose(predicted(prior, schedule, Mask(known, weights), method), wanted)


def test_rtc_is_the_papers_velocity():
    """v + min(beta, (1 - tau) / (tau r^2)) J^T W (Y - A^), arXiv 2506.07339 eq. 2 to 4."""
    prior, schedule = GaussianPrior.correlated(), schedules.Rectified()
    observation = observations.real_time_chunk(seeded(1, 6, seed=3), 1, 2)
    weights = observation.mask
    ends = torch.tensor([1.0, 0, 0, 0, 0, 0]).double()
    assert torch.equal(weights[0, :1], ends[:1])
    assert torch.equal(weights[0, 4:], ends[4:])
    c = torch.tensor([3 / 4, 2 / 4, 1 / 4]).double()
    assert torch.allclose(weights[0, 1:4], c * torch.expm1(c) / math.expm1(1))
    found = predicted(prior, schedule, observation, "rtc", "velocity")
    x, tau = states(schedule).requires_grad_(), 1 - TIMES[:, None]
    data, _ = prior.at(schedule, x, TIMES)
    error = weights * (observation.known - data.detach())
    (back,) = torch.autograd.grad(data, x, error)
    r2 = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
    scale = ((1 - tau) / (tau * r2)).clamp(max=5.0)
    # Towards data the velocity is (A^ - x) / (1 - tau).
    pushed = (found - data) / (1 - tau)
    assert (((1 - tau) / (tau * r2)) > 5).any()
    assert torch.allclose(pushed, scale * back, atol=1e-9)


def test_a_function_is_linear_at_the_prediction():
    prior, schedule = GaussianPrior.correlated(), schedules.LinearVP()
    y = seeded(1, 6, seed=3).abs()
    found = predicted(prior, schedule, Nonlinear(lambda x: x**2, y, 0.5), observations.MMPS(6))
    data, covariance = prior.at(schedule, states(schedule), TIMES)
    for b in range(4):
        slope = torch.diag(2 * data[b])
        wanted, _ = given(data[b], covariance[b], slope, y - data[b] ** 2 + data[b] @ slope, 0.5)
        assert torch.allclose(found[b], wanted[0], atol=1e-7)


def test_poisson_noise_has_the_variance_of_the_prediction():
    noise = observations.Poisson(4.0)
    assert torch.equal(noise.variance(torch.tensor([[2.0, 0.0]])), torch.tensor([[0.5, 1 / 16]]))
    prior, schedule = GaussianPrior(torch.eye(6), 3 + torch.zeros(6)), schedules.LinearVP()
    y = 3 + seeded(1, 6, seed=3)
    counted = Linear(lambda x: x, lambda w: w, y=y, noise=noise)
    found = predicted(prior, schedule, counted, observations.MMPS(6))
    data, covariance = prior.at(schedule, states(schedule), TIMES)
    variance = data.clamp(min=0.25) / 4
    own = torch.diagonal(covariance, dim1=1, dim2=2)
    assert torch.allclose(found, data + own / (own + variance) * (y - data), atol=1e-7)


def test_a_state_of_noise_alone_says_what_the_observation_says():
    prior, schedule = GaussianPrior.correlated(), schedules.Rectified()
    matrix, y = seeded(3, 6, seed=2), seeded(1, 3, seed=3)
    observation = Linear(*projected(matrix), y=y, noise=0.3)
    model = conditioned(prior.model(schedule, "velocity"), observation, observations.MMPS(3))
    one = torch.ones(2, dtype=torch.float64)
    found = model.net(torch.stack([seeded(6), seeded(6, seed=5)]), one)
    wanted, _ = given(prior.mean[None], prior.covariance, matrix, y, 0.3)
    assert torch.allclose(found, wanted.expand(2, 6), atol=0.01)  # alpha / sigma there is 1e-3


class TestBesideAzula:
    """The same data predictions as azula's at the same states."""

    @pytest.fixture
    def peer(self):
        azula = pytest.importorskip("azula")
        from azula.denoise import Denoiser, DiracPosterior
        from azula.noise import VPSchedule

        from fastgen.integrations.azula import AzulaSchedule

        schedule = AzulaSchedule(VPSchedule())
        prior = GaussianPrior.correlated()

        class Peer(Denoiser):
            def __init__(self):
                super().__init__()
                self._schedule = VPSchedule()

            @property
            def schedule(self):
                return self._schedule

            def forward(self, x, t, **kwargs):
                mean, _ = prior.at(schedule, x, t.double().reshape(1).expand(len(x)))
                return DiracPosterior(mean=mean)

        assert azula
        return prior, schedule, Peer()

    @pytest.mark.parametrize("name", ["tmpd", "mmps"])
    def test_data_predictions(self, peer, name):
        from azula.guidance import MMPSDenoiser, TMPDenoiser
        from azula.linalg.covariance import IsotropicCovariance

        prior, schedule, denoiser = peer
        matrix, y = seeded(3, 6, seed=2), seeded(1, 3, seed=3).expand(4, 3)
        if name == "tmpd":  # the row sums of a mask's covariance, which are positive here
            matrix, y = torch.eye(6, dtype=torch.float64)[[0, 2]], y[:, :2]
            rows = matrix @ prior.covariance @ matrix.T
            assert (rows.sum(1) > 0).all()
        forward, transpose = projected(matrix)
        variance = torch.tensor(0.09, dtype=torch.float64)
        theirs = {
            "tmpd": lambda: TMPDenoiser(denoiser, y, forward, variance),
            "mmps": lambda: MMPSDenoiser(
                denoiser, y, forward, IsotropicCovariance(variance), solver="cg", iterations=3
            ),
        }[name]()
        ours = {"tmpd": observations.TMPD(), "mmps": observations.MMPS(3)}[name]
        model = conditioned(prior.model(schedule), Linear(forward, transpose, y=y, noise=0.3), ours)
        x = seeded(4, 6, seed=9)
        for t in (0.2, 0.5, 0.9):
            time = torch.tensor(t, dtype=torch.float64)
            wanted = theirs(x, time).mean
            found = model.net(x, time.expand(4))
            assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_names_and_options():
    for name in observations.METHODS:
        assert repr(observations.methods.method_of(name))
    with pytest.raises(ValueError, match="did you mean 'mmps'"):
        observations.methods.method_of("mmp")
    with pytest.raises(ValueError, match="'ddrm': it has steps of its own"):
        observations.methods.method_of("ddrm")
    with pytest.raises(TypeError, match="MMPS"):
        observations.methods.method_of(3)
    with pytest.raises(ValueError, match="iterations=0"):
        observations.MMPS(0)
    for made in (observations.DPS, observations.PiGDM, observations.DiffPIR):
        with pytest.raises(ValueError, match="expected a positive number"):
            made(-1.0)
    assert fastgen.observations is observations
