"""Time grids: parity with diffusers and k-diffusion, shapes and ends, and every error."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgen import timesteps
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
from fastgen.timesteps import registry
from tests.support.peers import k_diffusion

ON_RATIO = ["log_snr", "karras", "exponential", "polyexponential", "kl_optimal"]
IN_TIME = ["uniform", "quadratic", "sgm_uniform", "normal", "linear_quadratic", "beta"]
CONTINUOUS = IN_TIME + ON_RATIO
DISCRETE = ["leading", "linspace", "trailing"]
TABLES = ["ays", "gits", "table"]
SCHEDULES = [
    LinearVP(),
    SubVP(),
    CosineVP(),
    DiscreteVP.linear(),
    DiscreteVP.scaled_linear().rescale_zero_terminal_snr(),
    VE(),
    EDM(),
    Rectified(),
    Rectified(3.0),
    Trig(),
    UserSchedule(lambda t: 1 - t**2, lambda t: t),
]
N = 1000
THOUSAND = DiscreteVP.linear(N)

every = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: repr(s)[:40])


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@every
@pytest.mark.parametrize("steps", [1, 2, 3, 18, 250])
def test_every_grid_is_well_formed(schedule, steps):
    for grid in timesteps.names():
        if grid in DISCRETE and not isinstance(schedule, DiscreteVP):
            continue
        if grid == "gits" and isinstance(schedule, VE):
            continue  # its levels go below the least sigma of this schedule
        options = {"sigmas": [12.0, 1.0, 0.05]} if grid == "table" else {}
        t = timesteps.times(grid, schedule, steps, **options)
        assert t.shape == (steps + 1,)
        assert t.dtype == np.float64
        assert (np.diff(t) < 0).all()
        assert t[-1] == 0
        if grid in ON_RATIO:
            assert steps == 1 or t[-2] == pytest.approx(schedule.t_min, rel=1e-9)
            if schedule.alpha(1.0):
                assert t[0] == 1
            else:
                assert schedule.ratio(t[0]) == pytest.approx(80, rel=1e-12)
        elif grid in TABLES:
            first = {"ays": 14.615, "gits": 80.0, "table": 12.0}[grid]
            assert schedule.ratio(t[0]) == pytest.approx(min(first, schedule.ratio(1.0)), rel=1e-3)
        elif grid != "leading":
            assert t[0] == 1


@every
@pytest.mark.parametrize("grid", CONTINUOUS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_start_and_end(schedule, grid, steps):
    t = timesteps.times(grid, schedule, steps, start=0.7, end=0.2)
    assert t.shape == (steps + 1,)
    assert t[0] == 0.7
    assert t[-1] == 0.2
    assert (np.diff(t) < 0).all()
    t = timesteps.times(grid, schedule, steps, start=0.7)
    assert t[0] == 0.7
    assert t[-1] == 0


@settings(max_examples=60, deadline=None)
@given(
    grid=st.sampled_from(CONTINUOUS),
    schedule=st.sampled_from(SCHEDULES[:-1]),
    steps=st.integers(1, 60),
    start=st.floats(0.2, 1.0),
    end=st.one_of(st.just(0.0), st.floats(0.01, 0.1)),
)
def test_any_valid_request_gives_a_valid_grid(grid, schedule, steps, start, end):
    t = timesteps.times(grid, schedule, steps, start=start, end=end)
    assert t.shape == (steps + 1,)
    assert (np.diff(t) < 0).all()
    assert t[-1] == end
    assert 0 < t[0] <= 1


def test_uniform_and_quadratic():
    np.testing.assert_allclose(timesteps.times("uniform", LinearVP(), 4), [1, 0.75, 0.5, 0.25, 0])
    quadratic = timesteps.times("quadratic", LinearVP(), 4)
    np.testing.assert_allclose(quadratic, np.array([1, 0.75, 0.5, 0.25, 0]) ** 2)


def test_shift_acts_once_on_uniform_grids():
    u = np.linspace(1, 0, 29)
    t = timesteps.times("uniform", Rectified(3.0), 28)
    np.testing.assert_allclose(t, 3 * u / (1 + 2 * u), rtol=1e-14)
    part = timesteps.times("uniform", Rectified(3.0), 14, start=float(t[14]))
    np.testing.assert_allclose(part, t[14:], rtol=1e-13)
    plain, shifted = (timesteps.times("karras", Rectified(s), 5) for s in (1.0, 3.0))
    assert (plain == shifted).all()


@every
def test_log_snr_is_uniform_in_log_snr(schedule):
    lam = schedule.half_log_snr(timesteps.times("log_snr", schedule, 12))
    np.testing.assert_allclose(np.diff(lam[:-1]), (lam[-2] - lam[0]) / 11, rtol=1e-6)
    if schedule.alpha(1.0) == 0:
        assert lam[0] == pytest.approx(-math.log(80))
        t = timesteps.times("log_snr", schedule, 12, ratio_max=500)
        assert schedule.ratio(t[0]) == pytest.approx(500)


@pytest.mark.parametrize("steps", [1, 2, 10, 18, 100])
@pytest.mark.parametrize(
    ("grid", "options"),
    [
        ("karras", {}),
        ("karras", {"rho": 5.0}),
        ("exponential", {}),
        ("polyexponential", {}),
        ("polyexponential", {"rho": 0.5}),
    ],
)
@pytest.mark.parametrize("bounds", [(0.002, 80.0), (0.03, 14.6)])
def test_matches_k_diffusion(steps, grid, options, bounds):
    theirs = k_diffusion("append_zero", "get_sigmas")[f"get_sigmas_{grid}"](
        steps, *bounds, **options
    )
    by_schedule = EDM(*bounds)
    mine = by_schedule.sigma(timesteps.times(grid, by_schedule, steps, **options))
    np.testing.assert_allclose(mine, theirs.double(), rtol=5e-6)
    by_option = EDM(0.001, 100.0)
    t = timesteps.times(grid, by_option, steps, sigma_min=bounds[0], sigma_max=bounds[1], **options)
    np.testing.assert_allclose(by_option.sigma(t), mine, rtol=1e-12)


def diffusers_indices(name, steps, spacing, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers")
        scheduler = getattr(diffusers, name)(N, timestep_spacing=spacing, **options)
        scheduler.set_timesteps(steps)
    return scheduler.timesteps.double().numpy()


SOME_STEPS = [
    2,
    3,
    4,
    5,
    7,
    10,
    20,
    27,
    30,
    48,
    50,
    61,
    100,
    112,
    150,
    243,
    333,
    499,
    500,
    501,
    729,
    999,
    1000,
]


@pytest.mark.parametrize("spacing", DISCRETE)
def test_matches_diffusers(spacing):
    for steps in SOME_STEPS:
        t = timesteps.times(spacing, THOUSAND, steps)
        index = THOUSAND.index_of_time(t[:-1])
        np.testing.assert_array_equal(index, np.round(index))
        for name in ("DDIMScheduler", "EulerDiscreteScheduler"):
            if (name, spacing) != ("EulerDiscreteScheduler", "linspace"):
                wanted = diffusers_indices(name, steps, spacing)
                if len(wanted) > steps:  # diffusers' rounded stride adds an index -1: data itself
                    assert spacing == "trailing"
                    assert wanted[steps:].tolist() == [-1]
                    wanted = wanted[:steps]
                np.testing.assert_array_equal(index, wanted, str((name, steps)))
    for steps in (1, 20, 50):
        if spacing == "leading":
            t = timesteps.times(spacing, THOUSAND, steps, steps_offset=1)
            wanted = diffusers_indices("DDIMScheduler", steps, spacing, steps_offset=1)
            np.testing.assert_array_equal(THOUSAND.index_of_time(t[:-1]), wanted)
        if spacing == "linspace" and steps > 1:
            t = timesteps.times(spacing, THOUSAND, steps, rounded=False)
            wanted = diffusers_indices("EulerDiscreteScheduler", steps, spacing)
            np.testing.assert_allclose(THOUSAND.index_of_time(t[:-1]), wanted, atol=1e-4)


@pytest.mark.parametrize("spacing", DISCRETE)
def test_every_number_of_steps_of_a_discrete_grid_is_strict(spacing):
    for steps in range(1, N + 1):
        t = timesteps.times(spacing, THOUSAND, steps)
        assert t.shape == (steps + 1,)
    with pytest.raises(ValueError, match=rf"steps = 1001 would repeat .*give steps <= {N}"):
        timesteps.times(spacing, THOUSAND, N + 1)


def test_discrete_grids_from_a_later_start():
    t = timesteps.times("trailing", THOUSAND, 5, start=0.5)
    np.testing.assert_allclose(t, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    assert timesteps.times("linspace", THOUSAND, 1).tolist() == [1, 0]
    assert timesteps.times("leading", THOUSAND, 1).tolist() == [1e-3, 0]
    with pytest.raises(ValueError, match=r"has 3 up to start = 0.003; give steps <= 3"):
        timesteps.times("trailing", THOUSAND, 4, start=0.003)
    with pytest.raises(ValueError, match="times must fall strictly"):
        timesteps.times("trailing", THOUSAND, 10, end=0.1)


def test_explicit_times():
    given_times = [1.0, 0.4, 0.0]
    for grid in (given_times, tuple(given_times), np.array(given_times), torch.tensor(given_times)):
        t = timesteps.times(grid, LinearVP())
        assert t.dtype == np.float64
        np.testing.assert_allclose(t, given_times, rtol=1e-7)
    source = np.array(given_times)
    timesteps.times(source, LinearVP(), 2)[0] = 0.9
    assert source[0] == 1
    assert timesteps.times([0.9, 0.1], LinearVP(), 1, start=0.9, end=0.1).tolist() == [0.9, 0.1]


@pytest.mark.parametrize(
    ("grid", "arguments", "message"),
    [
        ("karas", {}, r"unknown time grid 'karas'; did you mean 'karras'\? Known: ays, beta, "),
        ("karras", {"roh": 7}, r"'karras' has no option 'roh'; did you mean 'rho'"),
        ("karras", {"strat": 0.5}, r"no option 'strat'; did you mean 'start'"),
        ("uniform", {"rho": 7}, r"'uniform' has no option 'rho'"),
        ("uniform", {"steps": 0}, r"steps = 0 is not a positive integer"),
        ("uniform", {"steps": 2**31}, r"steps = 2147483648 is above 2\^31 - 1"),
        ("uniform", {"steps": -3}, r"steps = -3 is not a positive integer"),
        ("uniform", {"steps": 2.0}, r"steps = 2.0 is not a positive integer"),
        ("uniform", {"steps": True}, r"steps = True is not a positive integer"),
        ("uniform", {"steps": None}, r"steps = None for .* give steps, or explicit times"),
        ("uniform", {"start": 1.1}, r"start = 1.1 is out of range"),
        ("uniform", {"start": math.nan}, r"start = nan is out of range"),
        ("uniform", {"end": -0.1}, r"end = -0.1 is out of range"),
        ("uniform", {"start": 0.2, "end": 0.2}, r"end = 0.2 is not below start = 0.2"),
        ("karras", {"rho": 0}, r"rho = 0 is out of range; give a positive number"),
        ("karras", {"sigma_max": math.inf}, r"sigma_max = inf is out of range"),
        ("karras", {"sigma_max": 0}, r"sigma_max = 0 is out of range"),
        ("karras", {"sigma_min": -1}, r"sigma_min = -1 is out of range"),
        ("karras", {"sigma_max": 200.0}, r"ratio = 200.* is out of range: give a value within"),
        ("karras", {"sigma_min": 160.0}, r"would not fall: from 152.167 .* to 160"),
        ("log_snr", {"ratio_max": math.nan}, r"ratio_max = nan is out of range"),
        ("log_snr", {"start": 1e-4}, r"would not fall: .*start = 0.0001"),
        ("leading", {}, r"'leading' needs a DiscreteVP schedule, not LinearVP"),
        ("trailing", {}, r"'trailing' needs a DiscreteVP schedule, not LinearVP"),
        ([1.0, 0.5, 0.5, 0.0], {"steps": None}, r"times\[1\] = 0.5 is followed by 0.5"),
        ([0.0, 1.0], {"steps": None}, r"times\[0\] = 0.0 is followed by 1.0; .*fall strictly"),
        ([1.0, math.nan, 0.0], {"steps": None}, r"times\[1\] = nan is not within \[0, 1\]"),
        ([1.5, 0.0], {"steps": None}, r"times\[0\] = 1.5 is not within"),
        ([1.0], {"steps": None}, r"shape \(1,\); give at least two"),
        ([1.0 + 1j, 0.0], {"steps": None}, r"timesteps=.* or falling times"),
        ([1.0, 0.0], {"steps": 5}, r"steps = 5, but 2 explicit times make 1 steps"),
        ([1.0, 0.0], {"steps": None, "rho": 7}, r"explicit times take no options; remove rho"),
        ([1.0, 0.0], {"steps": None, "start": 0.5}, r"start = 0.5, but explicit times have 1.0"),
    ],
)
def test_errors(grid, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        timesteps.times(grid, LinearVP(), **{"steps": 5, **arguments})


def test_leading_offset_errors():
    with pytest.raises(ValueError, match="leads to index 1000; the largest offset here is 0"):
        timesteps.times("leading", THOUSAND, 1000, steps_offset=1)
    with pytest.raises(ValueError, match="steps_offset = -1"):
        timesteps.times("leading", THOUSAND, 10, steps_offset=-1)
    t = timesteps.times("leading", THOUSAND, 10, steps_offset=99)
    assert t[0] == 1


def test_register(monkeypatch):
    monkeypatch.setattr(registry, "_grids", dict(registry._grids))

    @timesteps.register("cubic")
    def cubic(schedule, steps, start, end, *, power=3):
        return end + (start - end) * np.linspace(1, 0, steps + 1) ** power

    assert "cubic" in timesteps.names()
    np.testing.assert_allclose(timesteps.times("cubic", EDM(), 2), [1, 1 / 8, 0])
    np.testing.assert_allclose(timesteps.times("cubic", EDM(), 2, power=2), [1, 1 / 4, 0])
    with pytest.raises(TypeError, match="did you mean 'power'"):
        timesteps.times("cubic", EDM(), 2, pwer=2)
    with pytest.raises(ValueError, match="'karras' is registered already"):
        timesteps.register("karras")(cubic)

    timesteps.register("short")(lambda schedule, steps, start, end: [start, end])
    with pytest.raises(ValueError, match=r"'short' gave shape \(2,\) for steps = 3"):
        timesteps.times("short", EDM(), 3)
    timesteps.register("open")(lambda schedule, steps, start, end, **any: [start, any["last"]])
    with pytest.raises(ValueError, match=r"'open' ends at 0.1 instead of end = 0.0"):
        timesteps.times("open", EDM(), 1, last=0.1)


def test_names():
    assert set(timesteps.names()) == {*CONTINUOUS, *DISCRETE, *TABLES}
    assert timesteps.names() == tuple(sorted(timesteps.names()))
