"""Schedules against 60-digit references, their limits, inverses, kinds of input and errors."""

import copy
import json
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fastgen
from fastgen import schedules
from fastgen.common.errors import nearest
from fastgen.schedules import (
    EDM,
    VE,
    CosineVP,
    DiscreteVP,
    LinearVP,
    Rectified,
    Schedule,
    SubVP,
    Trig,
    UserSchedule,
)

FUNCTIONS = (
    "alpha",
    "sigma",
    "d_alpha",
    "d_sigma",
    "ratio",
    "half_log_snr",
    "log_snr",
    "drift",
    "diffusion_squared",
)
CLOSED = [
    LinearVP(),
    LinearVP(2.0, 2.0),
    SubVP(),
    CosineVP(),
    CosineVP(s=1.0),
    VE(),
    EDM(),
    Rectified(),
    Rectified(3.0),
    Trig(),
]
DISCRETE = [
    DiscreteVP.linear(),
    DiscreteVP.scaled_linear().rescale_zero_terminal_snr(),
    DiscreteVP.squared_cosine(50),
    DiscreteVP.sigmoid(7),
    DiscreteVP([0.3]),
    DiscreteVP([1.0]),
    DiscreteVP([0.1, 1.0]),
]
USER = UserSchedule(lambda t: 1 - t**2, lambda t: t * (2 - t))
STORED = CLOSED + DISCRETE
ALL = [*STORED, USER]
TIMES = [1e-12, 1e-5, 1e-3, 0.1, 1 / 3, 0.4999999, 0.5, 0.75, 0.999, 1 - 2**-40, 1.0]

every = pytest.mark.parametrize("schedule", ALL, ids=lambda s: repr(s)[:40])


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def exact(schedule, t):
    """alpha and sigma from their definitions in 60 digits; t is an mpf."""
    mp = pytest.importorskip("mpmath").mp
    if isinstance(schedule, LinearVP | SubVP):
        low, high = mp.mpf(schedule.beta_min), mp.mpf(schedule.beta_max)
        alpha = mp.exp(-(high - low) * t**2 / 4 - low * t / 2)
        square = 1 - alpha**2
        return alpha, square if isinstance(schedule, SubVP) else mp.sqrt(square)
    if isinstance(schedule, CosineVP):
        s = mp.mpf(schedule.s)
        alpha = mp.cos(mp.pi / 2 * (t + s) / (1 + s)) / mp.cos(mp.pi / 2 * s / (1 + s))
        return alpha, mp.sqrt(1 - alpha**2)
    if isinstance(schedule, VE):
        low, high = mp.mpf(schedule.sigma_min), mp.mpf(schedule.sigma_max)
        return mp.mpf(1), low * (high / low) ** t
    if isinstance(schedule, EDM):
        return mp.mpf(1), schedule.sigma_max * t
    if isinstance(schedule, Rectified):
        return 1 - t, t
    return mp.cos(mp.pi * t / 2), mp.sin(mp.pi * t / 2)


def close(value, reference, tolerance=1e-13, scale=0.0):
    """|value - reference| <= tolerance (|reference| + scale)."""
    assert abs(value - reference) <= tolerance * (abs(reference) + scale), (value, reference)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("schedule", CLOSED, ids=repr)
def test_matches_its_definition_in_60_digits(schedule, t):
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        alpha, sigma = exact(schedule, mpmath.mpf(t))
        # Central difference in 60 digits; past t = 1 the formulas continue analytically.
        h = mpmath.mpf(t) * mpmath.mpf(10) ** -22
        (a0, s0), (a1, s1) = (exact(schedule, mpmath.mpf(t) + d) for d in (-h, h))
        d_alpha, d_sigma = (a1 - a0) / (2 * h), (s1 - s0) / (2 * h)
        zero = abs(alpha) < mpmath.mpf(10) ** -50
        close(schedule.alpha(t), alpha, scale=1e-40)
        close(schedule.sigma(t), sigma)
        close(schedule.d_alpha(t), d_alpha, scale=1e-25)
        close(schedule.d_sigma(t), d_sigma, scale=1e-20)
        if zero:
            assert schedule.ratio(t) == math.inf
            assert schedule.half_log_snr(t) == -math.inf
        else:
            f = d_alpha / alpha
            close(schedule.ratio(t), sigma / alpha)
            close(schedule.half_log_snr(t), mpmath.log(alpha / sigma), scale=0.01)
            close(schedule.log_snr(t), 2 * mpmath.log(alpha / sigma), scale=0.01)
            close(schedule.drift(t), f, scale=1e-25)
            g_squared = 2 * sigma * d_sigma - 2 * f * sigma**2
            close(schedule.diffusion_squared(t), g_squared, 1e-12, scale=1e-20)


@every
def test_limits_are_exact_and_silent(schedule):
    assert schedule.alpha(0.0) == 1
    assert schedule.sigma(0.0) == 0
    assert schedule.ratio(0.0) == 0
    assert schedule.half_log_snr(0.0) == math.inf
    assert schedule.time_at(math.inf) == 0
    assert schedule.time_at_ratio(0.0) == 0
    assert schedule.time_at(schedule.half_log_snr(1.0)) == pytest.approx(1, abs=1e-15)
    ends_at_zero = (
        isinstance(schedule, CosineVP | Rectified | Trig)
        or schedule is USER
        or getattr(schedule, "zero_terminal_snr", False)
    )
    assert (schedule.alpha(1.0) == 0) == ends_at_zero
    assert (schedule.ratio(1.0) == math.inf) == ends_at_zero
    assert (schedule.half_log_snr(1.0) == -math.inf) == ends_at_zero
    if ends_at_zero:
        assert schedule.time_at(-math.inf) == 1
        assert schedule.time_at_ratio(math.inf) == 1
        assert schedule.drift(1.0) == -math.inf
        assert schedule.diffusion_squared(1.0) == math.inf
    starts_like_a_root = isinstance(schedule, LinearVP | CosineVP | DiscreteVP | VE)
    assert (schedule.d_sigma(0.0) == math.inf) == starts_like_a_root
    exploding = isinstance(schedule, VE | EDM)
    assert schedule.regular_at(0.0) == (not starts_like_a_root and not exploding)
    assert schedule.regular_at(1.0)
    assert schedule.diffusion_squared(0.0) >= 0


def test_ve_jumps_at_zero():
    ve = VE(0.02, 30.0)
    assert ve.sigma(1e-300) == pytest.approx(0.02, rel=1e-14)
    assert ve.sigma(1.0) == 30.0
    t = ve.time_at_ratio(0.02)
    assert 0 < t < 1e-14
    assert torch.tensor(t, dtype=torch.float32) > 0
    assert ve.diffusion_squared(0.0) == pytest.approx(2 * 0.02**2 * math.log(1500), rel=1e-13)
    for ratio in (0.01, -0.0 - 1e-3, 31.0):
        with pytest.raises(ValueError, match=r"ratio = .* give a value within \[0\.02, 30\], or 0"):
            ve.time_at_ratio(ratio)
    with pytest.raises(ValueError, match="half_log_snr = 9"):
        ve.time_at(9.0)


@every
@settings(max_examples=30, deadline=None)
@given(t=st.floats(1e-6, 1.0))
@example(t=1.0)
def test_inverse_round_trip(schedule, t):
    ratio = schedule.ratio(t)
    back = schedule.time_at_ratio(ratio)
    # sigma / alpha near its end determines t only to within what a rounding of it moves t.
    slope = 1.0
    if schedule.ratio(t) < math.inf and 0 < t < 1:
        slope = schedule.d_sigma(t) / schedule.sigma(t) - schedule.drift(t)
    assert abs(back - t) <= 1e-14 + 1e-12 * t + 4e-16 / slope
    again = schedule.time_at(schedule.half_log_snr(t))
    assert abs(again - t) <= 1e-14 + 1e-11 * t + 1e-14 / slope
    if isinstance(schedule, Rectified):
        assert schedule.unwarp(schedule.warp(t)) == pytest.approx(t, rel=1e-14)
    else:
        assert schedule.warp(t) == schedule.unwarp(t) == t


@every
def test_ratio_rises_and_sde_identities_hold(schedule):
    t = np.linspace(0.0, 1.0, 2001)[1:-1] + 1e-7
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    assert (np.diff(schedule.ratio(t)) > 0).all()
    f, g2 = schedule.drift(t), schedule.diffusion_squared(t)
    np.testing.assert_allclose(f * alpha, schedule.d_alpha(t), rtol=1e-12)
    np.testing.assert_allclose(
        g2, 2 * sigma * schedule.d_sigma(t) - 2 * f * sigma**2, rtol=1e-11, atol=1e-13
    )
    # g^2 = -2 sigma^2 d(lambda)/dt
    h = 1e-6
    lam = (schedule.half_log_snr(t[5:-5] + h) - schedule.half_log_snr(t[5:-5] - h)) / (2 * h)
    smooth = np.ones(len(lam), bool)
    if isinstance(schedule, DiscreteVP):
        position = t[5:-5] * schedule.num_steps
        smooth = np.abs(position - np.round(position)) > 2 * h * schedule.num_steps
    wanted = (-2 * sigma[5:-5] ** 2 * lam)[smooth]
    np.testing.assert_allclose(g2[5:-5][smooth], wanted, rtol=1e-4)
    if isinstance(schedule, LinearVP | CosineVP | DiscreteVP | Trig):
        np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-13)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_equal_arrays(schedule, dtype):
    t = torch.tensor([[0.0, 1e-3, 0.25], [0.5, 0.8, 1.0]], dtype=dtype)
    array = t.double().numpy()
    tolerance = 1e-14 if dtype == torch.float64 else 2e-7
    for name in FUNCTIONS:
        function = getattr(schedule, name)
        result = function(t)
        assert result.dtype == dtype
        assert result.shape == t.shape
        wanted = function(array)
        assert wanted.dtype == np.float64
        np.testing.assert_allclose(result.double(), wanted, rtol=tolerance, atol=1e-16)
        for i, value in np.ndenumerate(array):
            scalar = function(float(value))
            assert type(scalar) is float
            np.testing.assert_allclose(scalar, wanted[i], rtol=1e-14)
    back = schedule.time_at_ratio(schedule.ratio(t))
    np.testing.assert_allclose(back, t, rtol=1e-4 if dtype == torch.float32 else 1e-12, atol=1e-6)


def test_kinds_of_input():
    s = LinearVP()
    for value in (1, 1.0, np.float32(1), np.float64(1), True):
        assert type(s.alpha(value)) is float
    assert isinstance(s.alpha(np.array(1.0)), np.ndarray)
    assert s.alpha([0.0, 1.0]).shape == (2,)
    assert s.alpha(np.array([0, 1])).dtype == np.float64
    assert s.alpha(np.zeros((0, 3))).shape == (0, 3)
    assert s.alpha(torch.tensor([0, 1])).dtype == torch.float64
    assert s.alpha(torch.tensor([0.5], dtype=torch.bfloat16)).dtype == torch.bfloat16
    for schedule in ALL:
        for name in FUNCTIONS:
            assert getattr(schedule, name)(torch.zeros(0, 2)).shape == (0, 2)
        with torch.inference_mode():
            assert schedule.d_sigma(torch.full((2,), 0.3)).shape == (2,)
        assert schedule.d_sigma(torch.full((2,), 0.3)).shape == (2,)


@every
def test_gradients_in_t(schedule):
    t = torch.tensor([0.00133, 0.2503, 0.7777, 0.9303], dtype=torch.float64, requires_grad=True)
    for name in ("alpha", "sigma"):
        value = getattr(schedule, name)(t)
        wanted = getattr(schedule, "d_" + name)(t)
        if not value.requires_grad:
            assert (wanted == 0).all()
            continue
        (gradient,) = torch.autograd.grad(value.sum(), t)
        torch.testing.assert_close(gradient, wanted.detach(), rtol=1e-7, atol=1e-13)
    second = schedule.d_sigma(t)
    if second.requires_grad:
        (gradient,) = torch.autograd.grad(second.sum(), t)
        difference = (schedule.d_sigma(t + 1e-7) - schedule.d_sigma(t - 1e-7)) / 2e-7
        torch.testing.assert_close(gradient, difference.detach(), rtol=1e-4, atol=1e-5)
    lam = schedule.half_log_snr(t)
    (gradient,) = torch.autograd.grad(lam.sum(), t)
    wanted = schedule.drift(t) - schedule.d_sigma(t) / schedule.sigma(t)
    torch.testing.assert_close(gradient, wanted.detach(), rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    "schedule", [s for s in ALL if s.alpha(1.0) == 0], ids=lambda s: repr(s)[:25]
)
def test_gradients_at_the_noise_end_are_finite(schedule):
    t = torch.ones(2, dtype=torch.float64, requires_grad=True)
    for name in ("alpha", "sigma"):
        (gradient,) = torch.autograd.grad(getattr(schedule, name)(t).sum(), t)
        wanted = getattr(schedule, "d_" + name)(t).detach()
        torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("schedule", STORED, ids=lambda s: repr(s)[:40])
def test_config_round_trip(schedule):
    config = json.loads(json.dumps(schedule.to_config()))
    assert config["name"] == type(schedule).__name__
    back = schedules.from_config(config)
    assert back == schedule
    assert hash(back) == hash(schedule)
    assert repr(back) == repr(schedule)
    assert type(back) is type(schedule)
    t = np.linspace(0, 1, 33)
    assert (back.sigma(t) == schedule.sigma(t)).all()
    assert copy.deepcopy(schedule) == schedule
    assert pickle.loads(pickle.dumps(schedule)) == schedule


def test_equality():
    assert LinearVP(0.1, 20) == LinearVP()
    assert LinearVP(0.1, 19.0) != LinearVP()
    assert LinearVP() != SubVP()
    assert Rectified(3) != Rectified()
    assert len({Trig(), Trig(), EDM(), EDM(sigma_data=1)}) == 3
    assert repr(LinearVP(0.1, 20)) == "LinearVP(beta_min=0.1, beta_max=20.0)"
    assert repr(DiscreteVP.linear()) == "DiscreteVP(num_steps=1000, betas=[0.0001, ..., 0.02])"
    with pytest.raises(AttributeError):
        LinearVP().beta_min = 1.0


def test_t_min():
    for schedule in (LinearVP(), SubVP(), CosineVP(), Trig(), Rectified(), USER):
        assert schedule.t_min == 1e-3
    assert VE().t_min == 1e-5
    assert EDM().t_min == 0.002 / 80
    assert DiscreteVP.linear(250).t_min == 1 / 250


def test_rectified_shift_moves_only_the_warp():
    t = np.linspace(0, 1, 11)
    assert (Rectified(3.0).sigma(t) == t).all()
    assert (Rectified(3.0).alpha(t) == 1 - t).all()
    np.testing.assert_allclose(Rectified(3.0).warp(t), 3 * t / (1 + 2 * t), rtol=1e-15)
    assert Rectified(3.0).warp(1.0) == 1
    assert torch.equal(Rectified(1.0).warp(torch.tensor([0.3])), torch.tensor([0.3]))


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
@pytest.mark.parametrize("rescale", [False, True])
def test_discrete_from_what_checkpoints_keep(kind, rescale):
    schedule = DiscreteVP.squared_cosine(50)
    schedule = schedule.rescale_zero_terminal_snr() if rescale else schedule
    kept = np.cumprod(1 - np.array(schedule.betas))
    found = DiscreteVP.from_alphas_cumprod(kind(kept.tolist()))
    assert found.zero_terminal_snr == rescale
    t = found.time_of_index(np.arange(50))
    precision = 1e-6 if kind is torch.tensor else 1e-14
    np.testing.assert_allclose(found.alpha(t), np.sqrt(kept), rtol=precision)
    np.testing.assert_allclose(found.sigma(t), np.sqrt(1 - kept), rtol=1e-3)
    assert schedules.from_config(found.to_config()) == found


@pytest.mark.parametrize("num", [1, 2, 10, 1000])
@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ("linear", "linear"),
        ("scaled_linear", "scaled_linear"),
        ("squared_cosine", "squaredcos_cap_v2"),
        ("sigmoid", "sigmoid"),
    ],
)
@pytest.mark.parametrize("rescale", [False, True])
def test_discrete_matches_diffusers(num, mine, theirs, rescale):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers")
        if rescale and num == 1:
            pytest.skip("one beta cannot be rescaled")
        ends = {"beta_start": 0.00085, "beta_end": 0.012} if mine == "scaled_linear" else {}
        scheduler = diffusers.DDPMScheduler(
            num, beta_schedule=theirs, rescale_betas_zero_snr=rescale, **ends
        )
    schedule = getattr(DiscreteVP, mine)(num)
    if rescale:
        schedule = schedule.rescale_zero_terminal_snr()
        assert schedule.alpha(1.0) == 0
        assert schedule.betas[-1] == 1
        assert schedule.rescale_zero_terminal_snr() is schedule
    t = schedule.time_of_index(np.arange(num))
    got, wanted = schedule.alpha(t) ** 2, scheduler.alphas_cumprod.double().numpy()
    np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(schedule.betas, scheduler.betas.double(), rtol=1e-3, atol=1e-6)


def test_rescale_is_exact():
    mpmath = pytest.importorskip("mpmath")
    source = DiscreteVP.scaled_linear(200)
    result = source.rescale_zero_terminal_snr()
    with mpmath.workdps(50):
        alphas, product = [], mpmath.mpf(1)
        for beta in source.betas:
            product *= 1 - mpmath.mpf(beta)
            alphas.append(mpmath.sqrt(product))
        after = [alphas[0] * (a - alphas[-1]) / (alphas[0] - alphas[-1]) for a in alphas]
        for i in (0, 1, 50, 150, 198):
            close(result.alpha((i + 1) / 200), after[i], 1e-12)
        for i in (1, 50, 198):
            close(result.betas[i], 1 - (after[i] / after[i - 1]) ** 2, 1e-12)


def test_discrete_knots_are_exact():
    mpmath = pytest.importorskip("mpmath")
    schedule = DiscreteVP.linear()
    with mpmath.workdps(50):
        product = mpmath.mpf(1)
        for i, beta in enumerate(schedule.betas):
            product *= 1 - mpmath.mpf(beta)
            if i % 37 == 0 or i == 999:
                t = schedule.time_of_index(i)
                close(schedule.alpha(t), mpmath.sqrt(product))
                close(schedule.sigma(t), mpmath.sqrt(1 - product))
                close(schedule.diffusion_squared(t), -1000 * mpmath.log(1 - mpmath.mpf(beta)))


def test_discrete_interpolates_log_alpha_and_ends_linearly():
    schedule = DiscreteVP([0.1, 0.2, 0.4])
    knots = [0.0, *np.log(np.sqrt(np.cumprod([0.9, 0.8, 0.6])))]
    t = np.linspace(0, 1, 31)
    np.testing.assert_allclose(
        np.log(schedule.alpha(t)), np.interp(t, np.arange(4) / 3, knots), rtol=1e-13, atol=1e-16
    )
    terminal = DiscreteVP([0.1, 0.2, 1.0])
    late = np.linspace(2 / 3, 1, 11)
    np.testing.assert_allclose(terminal.alpha(late), np.linspace(0.72**0.5, 0, 11), atol=1e-15)
    assert terminal.d_alpha(1.0) == pytest.approx(-3 * 0.72**0.5)


@pytest.mark.parametrize("num", [1, 7, 49, 1000])
def test_index_and_time(num):
    schedule = DiscreteVP([0.01] * num)
    assert schedule.num_steps == num
    index = np.arange(num)
    t = schedule.time_of_index(index)
    assert (schedule.index_of_time(t) == index).all()
    assert all(schedule.index_of_time(schedule.time_of_index(i)) == i for i in range(num))
    single = torch.from_numpy(t).float()
    assert torch.equal(schedule.index_of_time(single), torch.from_numpy(index).float())
    assert schedule.time_of_index(torch.arange(num)).dtype == torch.float64
    assert schedule.index_of_time(0.0) == -1
    assert schedule.time_of_index(-1) == 0
    assert schedule.time_of_index(num - 1) == 1
    assert schedule.index_of_time(0.5 / num) == pytest.approx(-0.5)
    for bad in (num, -2, math.nan):
        with pytest.raises(ValueError, match=rf"index = .* within \[0, {num - 1}\]"):
            schedule.time_of_index(bad)


def test_discrete_takes_tensors_and_arrays():
    betas = torch.linspace(1e-4, 0.02, 10)
    assert DiscreteVP(betas) == DiscreteVP(betas.numpy()) == DiscreteVP(betas.tolist())


class TestUserSchedule:
    def test_equals_the_built_in(self):
        mine = UserSchedule(
            lambda t: torch.cos(math.pi / 2 * t), lambda t: torch.sin(math.pi / 2 * t), t_min=0.01
        )
        assert mine.t_min == 0.01
        t = np.linspace(0, 1, 101)[:-1]
        for name in FUNCTIONS:
            np.testing.assert_allclose(
                getattr(mine, name)(t), getattr(Trig(), name)(t), rtol=1e-10, atol=1e-14
            )
        ratio = np.geomspace(1e-200, 1e12, 50)
        np.testing.assert_allclose(mine.time_at_ratio(ratio), Trig().time_at_ratio(ratio), 1e-14)

    def test_given_derivatives_and_constants(self):
        mine = UserSchedule(lambda t: 1.0, lambda t: t, d_alpha=lambda t: 0.0, d_sigma=lambda t: 1)
        assert mine.alpha(np.ones(3)).tolist() == [1, 1, 1]
        assert mine.d_alpha(torch.ones(3)).tolist() == [0, 0, 0]
        assert mine.d_sigma(0.5) == 1
        assert UserSchedule(lambda t: 1.0, lambda t: t).d_alpha(0.5) == 0
        assert UserSchedule(lambda t: 1.0, lambda t: t).t_min == 1e-3

    def test_second_derivatives(self):
        t = torch.tensor([0.2, 0.6], dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(USER.d_alpha(t).sum(), t)
        assert gradient.tolist() == [-2, -2]

    def test_identity(self):
        assert copy.copy(USER) == USER
        assert hash(USER) == hash(copy.copy(USER))
        assert repr(USER).startswith("UserSchedule(alpha=<lambda>")
        with pytest.raises(TypeError, match="holds functions"):
            USER.to_config()

    @pytest.mark.parametrize(
        ("alpha", "sigma", "message"),
        [
            (lambda t: t, lambda t: 1 - t, r"alpha\(0\) = .* make it 1\.0 .*takes 1 - t"),
            (lambda t: 1 - t, lambda t: t + 0.01, r"sigma\(0\) = .*make it 0\.0"),
            (lambda t: 1 - 2 * t, lambda t: t, r"alpha\(0\.500977\) = .*not negative"),
            (lambda t: 1 - t, lambda t: torch.log(t), r"sigma\(0\) = .*must be finite"),
            (lambda t: 1 - t, lambda t: t * (1 - t), r"does not rise from t = "),
            (lambda t: 1 - t, lambda t: t[:1], r"sigma gave shape \(1,\) for times"),
            (lambda t: 1 - t, 3.0, r"sigma = 3.0 is not callable"),
            (None, lambda t: t, r"alpha = None is not callable"),
        ],
    )
    def test_refuses(self, alpha, sigma, message):
        with pytest.raises((ValueError, TypeError), match=message):
            UserSchedule(alpha, sigma)

    def test_refuses_bad_derivatives_and_t_min(self):
        with pytest.raises(ValueError, match=r"d_sigma\(0.5\) = nan; give d_sigma"):
            UserSchedule(lambda t: 1 - t, lambda t: t, d_sigma=lambda t: t * math.nan)
        with pytest.raises(ValueError, match=r"t_min in \(0, 1\)"):
            UserSchedule(lambda t: 1 - t, lambda t: t, t_min=0)


@every
@pytest.mark.parametrize("t", [-1e-9, 1.0000001, math.nan, math.inf])
def test_time_out_of_range(schedule, t):
    for name in (*FUNCTIONS, "warp", "unwarp"):
        with pytest.raises(ValueError, match=r"t = .* is out of range: give within|t = .*\[0, 1\]"):
            getattr(schedule, name)(t)
        with pytest.raises(ValueError, match=r"t = "):
            getattr(schedule, name)(np.array([0.5, t]))
    torch.testing.assert_close(schedule.alpha(torch.zeros(1)), torch.ones(1))


@every
def test_inverse_out_of_range(schedule):
    for ratio in (-1e-3, math.nan, schedule.ratio(1.0) * 1.001 if schedule.alpha(1.0) else -1.0):
        with pytest.raises(ValueError, match=r"ratio = .* is out of range: give a value within"):
            schedule.time_at_ratio(ratio)
        with pytest.raises(ValueError, match="ratio = "):
            schedule.time_at_ratio(np.array([0.5, ratio]))
    with pytest.raises(ValueError, match=r"half_log_snr = nan is out of range"):
        schedule.time_at(math.nan)
    if schedule.alpha(1.0):
        with pytest.raises(ValueError, match=r"half_log_snr = -inf is out of range"):
            schedule.time_at(-math.inf)
        assert schedule.time_at_ratio(torch.tensor([1e30])) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearVP(beta_min=0), r"LinearVP: beta_min = 0 is out of range; .* beta_min <="),
        (lambda: LinearVP(beta_min=30.0), r"beta_min = 30.0 .* beta_max = 20.0"),
        (lambda: SubVP(beta_max=math.inf), r"SubVP: beta_max = inf"),
        (lambda: LinearVP(beta_max=math.nan), r"beta_max = nan"),
        (lambda: CosineVP(s=0), r"s = 0 is out of range; give s > 0 .*Trig"),
        (lambda: VE(sigma_min=50.0), r"sigma_min = 50.0 .*0 < sigma_min < sigma_max = 50.0"),
        (lambda: VE(sigma_max=-1), r"sigma_max = -1 .*positive noise scale"),
        (lambda: EDM(sigma_min=0), r"EDM: sigma_min = 0"),
        (lambda: EDM(sigma_data=0), r"sigma_data = 0 .*standard deviation"),
        (lambda: Rectified(shift=0), r"shift = 0 is out of range; give shift > 0"),
        (lambda: Rectified("3 x"), r"shift = '3 x' is not a number"),
        (lambda: LinearVP(beta_min=None), r"beta_min = None is not a number"),
        (lambda: DiscreteVP([]), r"betas has shape \(0,\)"),
        (lambda: DiscreteVP([[0.1]]), r"betas has shape \(1, 1\)"),
        (lambda: DiscreteVP([0.1, 0.0]), r"betas\[1\] = 0.0 is out of range; give betas in \(0, 1"),
        (lambda: DiscreteVP([1.0, 0.1]), r"betas\[0\] = 1.0"),
        (lambda: DiscreteVP([0.1, math.nan]), r"betas\[1\] = nan"),
        (
            lambda: DiscreteVP.from_alphas_cumprod([0.9, 0.9]),
            r"alphas_cumprod\[1\] = 0.9 after 0.9 is out of range; give strictly falling",
        ),
        (lambda: DiscreteVP.from_alphas_cumprod([1.0, 0.9]), r"alphas_cumprod\[0\] = 1.0 after"),
        (lambda: DiscreteVP.from_alphas_cumprod([0.9, 0.0, 0.0]), r"alphas_cumprod\[1\] = 0.0"),
        (lambda: DiscreteVP.from_alphas_cumprod([0.5, math.nan]), r"alphas_cumprod\[1\] = nan"),
        (lambda: DiscreteVP.from_alphas_cumprod([0.5, -0.1]), r"alphas_cumprod\[1\] = -0.1"),
        (lambda: DiscreteVP.from_alphas_cumprod([[0.5]]), r"alphas_cumprod has shape \(1, 1\)"),
        (lambda: DiscreteVP.from_alphas_cumprod("x"), r"alphas_cumprod = 'x'; give numbers"),
        (lambda: DiscreteVP.linear(0), r"num = 0 is not a positive integer"),
        (lambda: DiscreteVP.linear(10.0), r"num = 10.0 is not a positive integer"),
        (lambda: DiscreteVP.linear(beta_end=1.5), r"betas\[\d+\] = 1.0"),
        (lambda: DiscreteVP.scaled_linear(beta_start=-1), r"beta_start = -1 is out of range"),
        (lambda: DiscreteVP.squared_cosine(max_beta=1.0), r"max_beta = 1.0 is out of range"),
        (lambda: DiscreteVP([0.5]).rescale_zero_terminal_snr(), r"give at least 2 betas"),
        (lambda: schedules.from_config({"name": "LinearPV"}), r"did you mean 'LinearVP'\? Known"),
        (lambda: schedules.from_config({}), r"unknown schedule None; .*Known: "),
        (
            lambda: schedules.from_config({"name": "EDM", "sigma_mix": 1}),
            r"EDM has no parameter 'sigma_mix'; did you mean 'sigma_m",
        ),
    ],
)
def test_bad_parameters(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_names_and_register():
    assert "LinearVP" in schedules.names()
    assert "UserSchedule" not in schedules.names()
    with pytest.raises(ValueError, match="'LinearVP' is registered already"):
        schedules.register(type("LinearVP", (Schedule,), {}))
    assert schedules.register(LinearVP) is LinearVP
    with pytest.raises(NotImplementedError, match=r"Schedule must define _alpha"):
        Schedule().alpha(0.5)


def test_nearest():
    assert (
        nearest("karas", ["karras", "uniform"]) == "did you mean 'karras'? Known: karras, uniform"
    )
    assert nearest("EDm", ["EDM"]) == "did you mean 'EDM'? Known: EDM"
    assert nearest("zzz", iter(["b", "a"])) == "Known: a, b"
    assert nearest("zzz", []) == "Known: (none)"


def test_single_times_of_a_users_schedule_are_those_of_many():
    """Single times are found by other calls than arrays of them, with the same bits."""
    pairs = [
        (lambda t: torch.cos(1.5 * t), lambda t: torch.sin(1.5 * t)),
        (lambda t: 1 - t, lambda t: t),
        (lambda t: torch.exp(-5 * t**2), lambda t: torch.sqrt(-torch.expm1(-10 * t**2))),
        (lambda t: torch.ones_like(t), lambda t: 80 * t**7),
    ]
    for alpha, sigma in pairs:
        schedule = UserSchedule(alpha, sigma)
        ratios = np.geomspace(1e-9, schedule.ratio(0.999), 200)
        many = schedule.time_at_ratio(ratios)
        assert [schedule.time_at_ratio(float(r)) for r in ratios] == many.tolist()
        np.testing.assert_allclose(schedule.ratio(many), ratios, rtol=1e-12)
        assert schedule.time_at_ratio(0.0) == 0.0


def test_a_plan_on_a_users_schedule_calls_its_functions_seldom():
    calls = []

    def alpha(t):
        calls.append(t.numel())
        return torch.cos(1.5 * t)

    schedule = UserSchedule(alpha, lambda t: torch.sin(1.5 * t))
    calls.clear()
    fastgen.plan("dpm_solver_3", schedule, steps=20)
    # 38 inner times are looked for, at 62 halvings each.
    assert len(calls) < 700


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_betas_of_any_dtype(dtype):
    betas = torch.linspace(0.05, 0.5, 5).to(dtype)
    assert schedules.DiscreteVP(betas).betas == tuple(betas.tolist())
    with pytest.raises(TypeError, match=r"betas: expected a dense tensor.*to_dense"):
        schedules.DiscreteVP(betas.to_sparse())


USERS = {
    "pole": UserSchedule(
        lambda t: torch.cos(math.pi / 2 * t), lambda t: torch.sin(math.pi / 2 * t)
    ),
    "steep": UserSchedule(lambda t: 1 - t**9, lambda t: t**0.5),
    "variance_exploding": UserSchedule(torch.ones_like, lambda t: 80 * t**7),
}


@pytest.mark.parametrize("name", USERS)
def test_a_users_inverse_is_found_in_few_calls_and_is_the_same_in_all_kinds(name, monkeypatch):
    """The first double that is not below, as halvings of a tensor find it, for any ratio."""
    schedule, calls = USERS[name], []
    ratio = np.exp(np.random.default_rng(0).uniform(-600, 4, 400))

    def counted(self, t, xp, own=UserSchedule._ratio):
        calls.append(np.size(t.numpy()) if isinstance(t, torch.Tensor) else 1)
        return own(self, t, xp)

    monkeypatch.setattr(UserSchedule, "_ratio", counted)
    found = schedule.time_at_ratio(ratio)
    assert len(calls) < 16
    assert found.tolist() == schedule.time_at_ratio(torch.from_numpy(ratio)).tolist()
    assert found[:50].tolist() == [schedule.time_at_ratio(r) for r in ratio[:50].tolist()]
    calls.clear()
    usual = np.exp(np.linspace(-4, 4, 40)).tolist()
    planned = schedule.while_planning([0.25, 0.5])
    assert [planned.time_at_ratio(r) for r in usual] == schedule.times_at_ratio(usual)
    assert len(calls) < 4 * len(usual)
    assert np.isnan(schedule.times_at([math.inf, 0.0, math.nan])).tolist() == [True, False, True]


@pytest.mark.parametrize("solver", ["dpm_solver_3", "dpmpp_sde", "heun", "seeds_3", "unipc"])
@pytest.mark.parametrize("grid", ["log_snr", "uniform"])
def test_plans_on_a_users_schedule_call_its_functions_seldom(solver, grid):
    """As often for many steps as for few, however many times a solver asks for."""
    counts = []
    for steps in (10, 40):
        calls = []

        def alpha(t, calls=calls):
            calls.append(1)
            return 1 - t

        schedule = UserSchedule(alpha, lambda t: t)
        calls.clear()
        made = fastgen.plan(solver, schedule, steps, timesteps=grid, start=0.99)
        exact = fastgen.plan(solver, Rectified(), steps, timesteps=grid, start=0.99)
        np.testing.assert_allclose(made.times, exact.times, rtol=1e-12)
        found, expected = made.canonical(), exact.canonical()
        np.testing.assert_allclose(found.a, expected.a, rtol=1e-9)
        counts.append(len(calls))
    inner = {"dpmpp_sde": 1, "seeds_3": 2, "dpm_solver_3": 2}.get(solver, 0)
    assert counts[1] - counts[0] <= 30 * (inner + 0.2)
