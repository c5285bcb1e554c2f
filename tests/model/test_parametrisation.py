"""One denoiser, said in every way a network can say it, gives one sample."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastgen
from fastgen import solvers
from fastgen.model.parametrisation import Parametrisation
from fastgen.schedules import (
    EDM,
    VE,
    CosineVP,
    DiscreteVP,
    LinearVP,
    Rectified,
    SubVP,
    Trig,
    UserSchedule,
)
from tests.support.closed_forms import Gaussian, Mixture, network, tiered

# Of networks of one time; those of two have tests of their own.
KINDS = ("data", "noise", "velocity", "v", "score", "edm")
SCHEDULES = [
    LinearVP(),
    SubVP(),
    CosineVP(),
    DiscreteVP.linear(50, 1e-3, 0.3),
    VE(),
    EDM(),
    Rectified(),
    Trig(),
    UserSchedule(lambda t: 1 - t**2, lambda t: t),
]
MIXTURE = Mixture()
DEFAULT = (LinearVP, EDM, Rectified)
every = pytest.mark.parametrize(
    "schedule",
    [pytest.param(s, marks=() if type(s) in DEFAULT else pytest.mark.slow) for s in SCHEDULES],
    ids=lambda s: type(s).__name__,
)


@pytest.fixture(autouse=True)
def one_thread():
    """torch's softmax wakes its threads even for 24 numbers: 20 times slower than one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sample(schedule, predicts, solver, data=MIXTURE, data_at=0, sigma_data=0.5, **options):
    model = fastgen.Model(
        network(data, schedule, predicts, data_at, sigma_data),
        schedule,
        predicts,
        data_at=data_at,
        sigma_data=sigma_data,
        time_dtype=torch.float64,
    )
    return fastgen.sample(model, (3, 2), solver, dtype=torch.float64, seed=3, **options)


@every
@pytest.mark.parametrize(
    "solver", tiered(n for n in solvers.names() if not solvers.get(n).two_times)
)
def test_every_network_gives_the_same_sample(schedule, solver):
    options = {"timesteps": [0.9, 0.55, 0.3, 0.1]}
    if solver == "restart" and isinstance(schedule, EDM):
        options["intervals"] = ((20.0, 60.0, 2, 2),)  # within its largest ratio, 80
    expected = sample(schedule, "data", solver, **options)
    scale = expected.abs().max()
    for predicts, data_at in [*((q, 0) for q in KINDS), ("velocity", 1), ("noise", 1)]:
        found = sample(schedule, predicts, solver, data_at=data_at, **options)
        difference = (found - expected).abs().max() / scale
        assert difference < 1e-10, (predicts, data_at, difference)


@pytest.mark.parametrize("predicts", ["data", "noise", "v", "score", "edm"])
@pytest.mark.parametrize("solver", ["ddim", "ddpm", "dpmpp_2m", "euler_ancestral"])
def test_every_network_gives_the_same_sample_of_data(solver, predicts):
    """To t = 0, where the result is the last data prediction; the velocity is infinite there."""
    for schedule in (LinearVP(), EDM(), Rectified()):
        expected = sample(schedule, "data", solver, steps=5, start=0.9)
        found = sample(schedule, predicts, solver, steps=5, start=0.9)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("predicts", ["velocity", "v"])
@pytest.mark.parametrize("solver", ["ddim", "ddpm", "dpmpp_2m", "euler", "heun", "rk4"])
def test_pure_noise_is_a_valid_start(solver, predicts):
    """At alpha = 0 velocity and v still determine the data, and the noise is the state itself."""
    gaussian = Gaussian((0.3, -1.0), (0.5, 1.5))
    options = {"timesteps": [1.0, 0.7, 0.4, 0.1]}
    expected = sample(Rectified(), "data", solver, gaussian, **options)
    found = sample(Rectified(), predicts, solver, gaussian, **options)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_sigma_data_is_that_of_the_network():
    for sigma_data in (0.2, 1.3):
        found = sample(EDM(), "edm", "heun", sigma_data=sigma_data, steps=4)
        torch.testing.assert_close(found, sample(EDM(), "data", "heun", steps=4), rtol=0, atol=1e-9)


def test_a_wrong_claim_gives_another_sample():
    """Otherwise the comparisons above would show nothing."""
    schedule, options = LinearVP(), {"steps": 4, "start": 0.9, "end": 0.1}
    right = sample(schedule, "data", "ddim", **options)
    for claimed in set(KINDS) - {"data"}:
        model = fastgen.Model(
            network(MIXTURE, schedule, "data"), schedule, claimed, time_dtype=torch.float64
        )
        wrong = fastgen.sample(model, (3, 2), "ddim", dtype=torch.float64, seed=3, **options)
        assert (wrong - right).abs().max() > 1e-2, claimed


def said(schedule, quantity, data, noise, t, sigma_data):
    """A quantity of given data and noise, from its definition; "edm" as in Karras et al."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if quantity == "edm":
        r, x = sigma / alpha, data + sigma / alpha * noise
        c_skip, c_out = (
            sigma_data**2 / (r**2 + sigma_data**2),
            r * sigma_data / math.hypot(r, sigma_data),
        )
        return (data - c_skip * x) / c_out
    return {
        "data": data,
        "noise": noise,
        "velocity": schedule.d_alpha(t) * data + schedule.d_sigma(t) * noise,
        "v": alpha * noise - sigma * data,
        "score": -noise / sigma,
    }[quantity]


moderate = st.floats(-3, 3)


@given(
    schedule=st.sampled_from(SCHEDULES),
    predicts=st.sampled_from(KINDS),
    wanted=st.sampled_from(KINDS),
    data_at=st.sampled_from([0, 1]),
    t=st.floats(0.01, 0.99),
    sigma_data=st.floats(0.1, 2.0),
    data=moderate,
    noise=moderate,
)
def test_conversions_of_any_data_and_noise(
    schedule, predicts, wanted, data_at, t, sigma_data, data, noise
):
    """p x + q output, to the rounding of its own terms."""
    x = schedule.alpha(t) * data + schedule.sigma(t) * noise
    output = said(schedule, predicts, data, noise, t, sigma_data)
    if predicts == "velocity" and data_at == 1:
        output = -output
    parametrisation = Parametrisation(schedule, predicts, data_at, sigma_data)
    p, q = parametrisation.conversion(wanted, t)
    target = said(schedule, wanted, data, noise, t, sigma_data)
    if wanted == "velocity" and predicts == "velocity":
        target = -output if data_at == 1 else output
    size = abs(p) * (schedule.alpha(t) * 3 + schedule.sigma(t) * 3) + abs(q * output) + abs(target)
    assert abs(p * x + q * output - target) <= 1e-11 * size + 1e-12 * abs(q) * (
        3 + 3 / schedule.sigma(t)
    )


@given(
    schedule=st.sampled_from(SCHEDULES),
    quantity=st.sampled_from(KINDS),
    t=st.floats(0.01, 0.99),
    data=moderate,
    noise=moderate,
)
def test_conversions_from_a_data_prediction(schedule, quantity, t, data, noise):
    """What clipping uses: a quantity in terms of the state and the data prediction."""
    x = schedule.alpha(t) * data + schedule.sigma(t) * noise
    p, q = Parametrisation(schedule, "noise").from_data(quantity, t)
    target = said(schedule, quantity, data, noise, t, 0.5)
    size = abs(p) * 3 * (schedule.alpha(t) + schedule.sigma(t)) + abs(q) * 3 + abs(target)
    assert abs(p * x + q * data - target) <= 1e-12 * size


def test_conversions_at_the_ends():
    """Exact where they exist: alpha = 0 at t = 1 and sigma = 0 at t = 0 of Rectified."""
    at = {q: Parametrisation(Rectified(), q, sigma_data=0.5) for q in KINDS}
    assert at["velocity"].conversion("data", 1.0) == (1.0, -1.0)
    assert at["v"].conversion("data", 1.0) == (0.0, -1.0)
    assert at["data"].conversion("noise", 1.0) == (1.0, 0.0)
    assert at["edm"].conversion("data", 1.0) == (0.0, 0.5)
    assert at["noise"].conversion("data", 0.0) == (1.0, 0.0)
    assert at["velocity"].conversion("noise", 0.0) == (1.0, 1.0)
    assert at["v"].conversion("noise", 0.0) == (0.0, 1.0)
    flipped = Parametrisation(Rectified(), "velocity", data_at=1)
    assert flipped.conversion("velocity", 0.5) == (0.0, -1.0)
    assert flipped.conversion("data", 1.0) == (1.0, 1.0)


SINGULAR = [
    (Rectified(), "noise", "data", 1.0),  # x = eps says nothing of the data
    (Rectified(), "score", "data", 1.0),
    (Rectified(), "noise", "velocity", 1.0),
    (Trig(), "noise", "data", 1.0),
    (CosineVP(), "noise", "data", 1.0),
    (DiscreteVP([0.1, 0.5, 1.0]), "noise", "v", 1.0),
    (Rectified(), "data", "noise", 0.0),  # x = x_0 says nothing of the noise
    (Rectified(), "data", "velocity", 0.0),
    (Rectified(), "data", "score", 0.0),
    (Rectified(), "noise", "score", 0.0),  # -eps / sigma
    (LinearVP(), "noise", "velocity", 0.0),  # sigma' is infinite
    (VE(), "noise", "velocity", 0.0),
]


@pytest.mark.parametrize(("schedule", "predicts", "wanted", "t"), SINGULAR)
def test_singular_conversions(schedule, predicts, wanted, t):
    message = f"t={t}: {wanted} cannot be computed from a prediction of {predicts} where alpha="
    with pytest.raises(ValueError, match=message):
        Parametrisation(schedule, predicts).conversion(wanted, t)


@pytest.mark.parametrize("predicts", ["noise", "score"])
@pytest.mark.parametrize("solver", ["ddim", "ddpm", "dpmpp_2m", "euler", "euler_ancestral"])
def test_singular_plans_are_refused_before_the_first_evaluation(solver, predicts):
    def never(x, t):
        raise AssertionError("evaluated")

    model = fastgen.Model(never, Rectified(), predicts)
    with pytest.raises(ValueError, match=r"t=1.0: .* cannot be computed .* alpha=0, sigma=1"):
        fastgen.sample(model, (2, 2), solver, steps=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predicts": "velosity"}, "predicts='velosity': did you mean 'velocity'"),
        ({"data_at": 2}, "data_at=2: expected 0 or 1"),
        ({"sigma_data": 0.0}, "sigma_data=0.0: expected a positive number"),
        ({"sigma_data": math.nan}, "sigma_data=nan: expected a positive number"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        Parametrisation(Rectified(), **options)
