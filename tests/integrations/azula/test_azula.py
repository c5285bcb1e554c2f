"""Denoisers of azula as models: its own samplers to rounding, a closed form, and refusals."""

import copy
import math
import pickle
import subprocess
import sys

import pytest
import torch

import fastgen
from fastgen.integrations.azula import AzulaSchedule, PosteriorMean, as_model

denoise = pytest.importorskip("azula.denoise")
from azula import noise, sample  # noqa: E402
from azula.guidance.cfg import CFGDenoiser  # noqa: E402
from azula.linalg.covariance import IsotropicCovariance  # noqa: E402

SCHEDULES = {
    "ve": noise.VESchedule(1e-2, 50.0),
    "vp": noise.VPSchedule(),
    "cosine": noise.CosineSchedule(),
    "rectified": noise.RectifiedSchedule(),
    "decay": noise.DecaySchedule(),
}
EPS = torch.finfo(torch.float64).eps


class Backbone(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[0.6, -0.3], [0.2, 0.5]]).double())

    def forward(self, x, c, shift=0.0):
        return torch.tanh(x @ self.weight + c.reshape(-1, 1).sin() + shift)


def gaussian(schedule, mean=1.5, var=0.49):
    mean = torch.full((2,), mean, dtype=torch.float64)
    return denoise.GaussianDenoiser(mean, IsotropicCovariance(torch.tensor(var).double()), schedule)


def start(schedule, batch=5):
    x = torch.randn(batch, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return x * float(schedule(torch.ones((), dtype=torch.float64))[1])


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_the_schedule_is_azulas_and_ends_in_data(name):
    source = SCHEDULES[name]
    ours = AzulaSchedule(source)
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    alpha, sigma = source(t)
    torch.testing.assert_close(ours.alpha(t), alpha, rtol=0, atol=0)
    torch.testing.assert_close(ours.sigma(t), sigma, rtol=0, atol=0)
    assert (ours.alpha(0.0), ours.sigma(0.0), ours.ratio(0.0)) == (1.0, 0.0, 0.0)
    assert not ours.regular_at(0.0)
    back = ours.time_at_ratio(ours.ratio(t))
    torch.testing.assert_close(back, t, rtol=1e-12, atol=0)
    h = 1e-5
    for value, slope in ((ours.alpha, ours.d_alpha), (ours.sigma, ours.d_sigma)):
        middle = t[:-1]
        central = (value(middle + h) - value(middle - h)) / (2 * h)
        torch.testing.assert_close(slope(middle), central, rtol=1e-6, atol=1e-7)
    low = float(source(torch.zeros(()).double())[1])
    with pytest.raises(ValueError, match="ratio"):
        ours.time_at_ratio(low / 2)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("sampler", ["DDIMSampler", "EulerSampler"])
@pytest.mark.parametrize("kind", ["GaussianDenoiser", "KarrasDenoiser", "SimpleDenoiser"])
def test_samples_are_those_of_azulas_samplers(name, sampler, kind):
    schedule = SCHEDULES[name]
    if kind == "GaussianDenoiser":
        denoiser = gaussian(schedule)
    else:
        denoiser = getattr(denoise, kind)(Backbone(), schedule)
    x, steps, stop = start(schedule), 8, 0.05
    theirs = getattr(sample, sampler)(
        denoiser, steps=steps, stop=stop, silent=True, dtype=torch.float64
    )
    expected = theirs(x)
    model = as_model(denoiser)
    plan = fastgen.plan("ddim", model.schedule, steps, timesteps="uniform", end=stop)
    found = fastgen.Sampler(model, plan, dtype=x.dtype)(x)
    scale = float(x.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=2000 * EPS * scale)


def test_the_last_step_goes_to_the_posterior_mean():
    """Where azula leaves sigma(0) of noise, here is none."""
    schedule = SCHEDULES["vp"]
    denoiser = denoise.KarrasDenoiser(Backbone(), schedule)
    x, steps = start(schedule), 10
    model = as_model(denoiser)
    plan = fastgen.plan("ddim", model.schedule, steps, timesteps="uniform")
    found = fastgen.Sampler(model, plan, dtype=x.dtype)(x)
    theirs = sample.DDIMSampler(
        denoiser, steps=steps - 1, stop=1 / steps, silent=True, dtype=torch.float64
    )
    at = theirs(x)
    expected = denoiser(at, torch.tensor(1 / steps, dtype=torch.float64)).mean
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    whole = sample.DDIMSampler(denoiser, steps=steps, silent=True, dtype=torch.float64)(x)
    assert (found - whole).abs().max() < 5 * schedule.sigma_min


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_the_flow_of_a_gaussian_in_closed_form(name):
    """N(m, c^2): x_s = alpha_s m + v_s / v_t (x_t - alpha_t m), v^2 = alpha^2 c^2 + sigma^2."""
    schedule, mean, std = SCHEDULES[name], 1.5, 0.7
    model = as_model(gaussian(schedule, mean, std**2))
    x, s = start(schedule), 0.2
    ends = []
    for steps in (40, 80):
        plan = fastgen.plan("exponential_heun", model.schedule, steps, timesteps="log_snr", end=s)
        ends.append(fastgen.Sampler(model, plan, dtype=x.dtype)(x))
    a, b = model.schedule.alpha, model.schedule.sigma
    v_s, v_t = (math.hypot(a(t) * std, b(t)) for t in (s, 1.0))
    exact = a(s) * mean + v_s / v_t * (x - a(1.0) * mean)
    errors = [float((end - exact).abs().max()) for end in ends]
    assert errors[1] < 0.02 * float(exact.abs().max())
    assert errors[0] / errors[1] > 3.5  # of second order


def test_arguments_of_the_denoiser_are_net_kwargs():
    schedule = SCHEDULES["cosine"]
    denoiser = CFGDenoiser(denoise.KarrasDenoiser(Backbone(), schedule))
    given = {"positive": {"shift": 0.7}, "negative": {"shift": -0.2}, "guidance": 1.5}
    x, stop = start(schedule), 0.1
    expected = sample.DDIMSampler(denoiser, steps=6, stop=stop, silent=True, dtype=torch.float64)(
        x, **given
    )
    model = as_model(denoiser)
    found = fastgen.sample(
        model, x, "ddim", 6, timesteps="uniform", end=stop, dtype=x.dtype, net_kwargs=given
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_it_is_copied_and_pickled():
    model = as_model(denoise.KarrasDenoiser(Backbone(), SCHEDULES["decay"]))
    other = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    x = start(SCHEDULES["decay"])
    torch.testing.assert_close(
        other.predict("data", x, 0.3), model.predict("data", x, 0.3), rtol=0, atol=0
    )
    assert other.schedule.sigma(0.3) == model.schedule.sigma(0.3)


def test_one_time_or_each():
    schedule = SCHEDULES["rectified"]
    karras = denoise.KarrasDenoiser(Backbone(), schedule)
    assert as_model(karras).net.times == "each"
    assert as_model(gaussian(schedule)).net.times == "one"
    x, t = start(schedule, 3), torch.tensor([0.2, 0.5, 0.9]).double()
    each = PosteriorMean(karras, "each")(x, t)
    rows = torch.cat([PosteriorMean(karras, "one")(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(each, rows, rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match=r"t=0\.2 and t=0\.9.*times='each'"):
        PosteriorMean(gaussian(schedule), "one")(x, t)


@pytest.mark.parametrize("times", ["each", "one"])
def test_requests_at_several_times_share_a_batch(times):
    """Served from one time per sample, to what each is alone; refused otherwise."""
    model = as_model(denoise.KarrasDenoiser(Backbone().float(), SCHEDULES["cosine"]), times=times)
    plans = [fastgen.plan("dpmpp_2m", model.schedule, steps, end=0.1) for steps in (6, 4)]
    batch = fastgen.Sampler(model, plans[0]).serve((2, 2), plans=[plans[1]])
    first = batch.admit(seed=5)
    if times == "one":
        with pytest.raises(ValueError, match="times='each'"):
            batch.step()  # the free row is at another time
        return
    answers = dict(batch.step())
    second = batch.admit(seed=6, plan=plans[1])
    while batch.active:
        answers |= batch.step()
    for ticket, seed, plan in ((first, 5, plans[0]), (second, 6, plans[1])):
        alone = fastgen.Sampler(model, plan)((1, 2), seed=seed)[0]
        torch.testing.assert_close(answers[ticket], alone, rtol=1e-5, atol=1e-5)


def test_refusals_name_the_argument():
    with pytest.raises(TypeError, match="denoiser: expected an azula Denoiser"):
        as_model(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"give denoiser\.schedule"):
        AzulaSchedule(3)
    with pytest.raises(ValueError, match=r"alpha\(0\) = 0\.5"):
        AzulaSchedule(lambda t: (0.5 - t / 4, t))
    with pytest.raises(ValueError, match=r"sigma / alpha does not rise"):
        AzulaSchedule(lambda t: (torch.ones_like(t), t * (1 - t)))
    with pytest.raises(ValueError, match="times='all'"):
        as_model(gaussian(SCHEDULES["vp"]), times="all")


def test_fastgen_does_not_import_azula():
    code = (
        "import sys, fastgen, fastgen.integrations.azula;"
        "sys.exit(any(m.split('.')[0] == 'azula' for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
