"""Schedules on Python floats: the bits of the array path, without warnings, and quickly."""

import json
import math
import pickle
import time
import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgen import schedules
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
    "warp",
    "unwarp",
)
BUILT_IN = [
    LinearVP(),
    LinearVP(0.1, 5000.0),  # alpha underflows to 0 within (0, 1)
    SubVP(),
    CosineVP(),
    VE(),
    EDM(),
    Rectified(3.0),
    Trig(),
    DiscreteVP.linear(),
    DiscreteVP.squared_cosine(50),
    DiscreteVP.scaled_linear().rescale_zero_terminal_snr(),
    DiscreteVP([1.0]),
]
SCHEDULES = [*BUILT_IN, UserSchedule(lambda t: 1 - t**2, lambda t: t)]
every = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: repr(s)[:40])


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def same(one, other):
    assert type(one) is float
    assert np.float64(one).tobytes() == np.float64(other).tobytes() or one != one != other


@every
@given(t=st.floats(0, 1))
@example(t=0.0)
@example(t=5e-324)
@example(t=0.5)
@example(t=1 - 2**-53)
@example(t=1.0)
def test_floats_have_the_bits_of_arrays(schedule, t):
    for name in FUNCTIONS:
        function = getattr(schedule, name)
        same(function(t), function(np.array([t]))[0])
        same(function(np.float64(t)), function(t))


@pytest.mark.parametrize("schedule", BUILT_IN, ids=lambda s: repr(s)[:40])
def test_floats_have_the_bits_of_long_arrays(schedule):
    # Long arrays, as numpy's vector units and what is left over need not agree.
    random = np.random.default_rng(0)
    knots = np.arange(1, 1001) / 1000
    t = np.concatenate([random.random(400), knots[::7], 10.0 ** -np.arange(1, 20)])
    for name in FUNCTIONS:
        function = getattr(schedule, name)
        wanted = function(t)
        for value, array in zip(t.tolist(), wanted, strict=True):
            same(function(value), array)
    ratio = np.unique(schedule.ratio(t[t < 1]))
    ratio = ratio[np.isfinite(ratio)]
    lam = -np.log(ratio[ratio > 0])
    for function, values in ((schedule.time_at_ratio, ratio), (schedule.time_at, lam)):
        wanted = function(values)
        for value, array in zip(values.tolist(), wanted, strict=True):
            same(function(value), array)


def test_a_subclass_without_the_flag_is_only_given_numpy_and_torch():
    class Own(Schedule):
        def _alpha(self, t, xp):
            assert xp is np
            return xp.cosh(t)

    assert Own().alpha(0.25) == np.cosh(0.25)
    assert not UserSchedule._fast_on_floats


@pytest.mark.parametrize("schedule", BUILT_IN, ids=lambda s: repr(s)[:40])
def test_floats_cost_a_fraction_of_an_array(schedule):
    """Against the array path on the same machine and load: 1.5 to 10 times here."""
    t = np.linspace(0.01, 0.99, 50).tolist()

    def cost(argument):
        function, best = schedule.half_log_snr, math.inf
        for _ in range(7):
            start = time.perf_counter()
            for value in t:
                function(argument(value))
            best = min(best, time.perf_counter() - start)
        return best

    if schedule.alpha(0.9) > 0:  # the others take the slow path
        assert cost(float) < cost(lambda value: np.array([value]))


class TestConfig:
    MADE = (
        DiscreteVP.linear(),
        DiscreteVP.linear(250, 0.1 / 3, 0.7),
        DiscreteVP.scaled_linear(500, np.float32(0.001), 0.02),
        DiscreteVP.squared_cosine(1000, 0.99),
        DiscreteVP.sigmoid(np.int64(40)),
        DiscreteVP.scaled_linear().rescale_zero_terminal_snr(),
        DiscreteVP.squared_cosine(20).rescale_zero_terminal_snr(),
    )

    @pytest.mark.parametrize("schedule", MADE, ids=repr)
    def test_names_the_constructor(self, schedule):
        text = json.dumps(schedule.to_config())
        assert len(text) < 160
        back = schedules.from_config(json.loads(text))
        assert back == schedule
        assert hash(back) == hash(schedule)
        assert back.betas == schedule.betas
        assert back.to_config() == schedule.to_config()
        assert pickle.loads(pickle.dumps(schedule)).to_config() == schedule.to_config()

    def test_is_legible(self):
        assert DiscreteVP.linear().to_config() == {
            "name": "DiscreteVP",
            "constructor": "linear",
            "num": 1000,
            "beta_start": 1e-4,
            "beta_end": 0.02,
        }
        config = DiscreteVP.squared_cosine(20).rescale_zero_terminal_snr().to_config()
        assert config["constructor"] == "squared_cosine"
        assert config["zero_terminal_snr"] is True

    def test_betas_otherwise(self):
        plain = DiscreteVP([0.1, 0.2, 1.0])
        assert plain.to_config() == {"name": "DiscreteVP", "betas": (0.1, 0.2, 1.0)}
        made = DiscreteVP.linear(10)
        copy = DiscreteVP(made.betas)
        assert copy == made
        assert repr(copy) == repr(made)
        assert "constructor" not in copy.to_config()
        assert schedules.from_config(json.loads(json.dumps(copy.to_config()))) == made
        rescaled = DiscreteVP(made.betas).rescale_zero_terminal_snr()
        assert rescaled == made.rescale_zero_terminal_snr()
        assert "betas" in rescaled.to_config()

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"constructor": "liner"}, r"no constructor 'liner'; did you mean 'linear'\? Known"),
            ({"constructor": "to_config"}, r"no constructor 'to_config'"),
            ({"constructor": "linear", "nun": 3}, r"linear has no parameter 'nun'; did you mean"),
            ({"constructor": "linear", "betas": [0.1]}, r"linear has no parameter 'betas'"),
            ({"constructor": "linear", "num": 0}, r"num = 0 is not a positive integer"),
            ({"bets": [0.1]}, r"DiscreteVP has no parameter 'bets'; did you mean 'betas'"),
        ],
    )
    def test_errors(self, parameters, message):
        with pytest.raises((TypeError, ValueError), match=message):
            schedules.from_config({"name": "DiscreteVP", **parameters})


class TestDynamicShift:
    def test_values(self):
        assert schedules.dynamic_shift(256) == pytest.approx(math.exp(0.5))
        assert schedules.dynamic_shift(4096) == pytest.approx(math.exp(1.15))
        assert schedules.dynamic_shift(4096, kind="linear") == pytest.approx(1.15)
        assert schedules.dynamic_shift(8192, kind="linear") == pytest.approx(1.15 + 0.65 * 16 / 15)
        short = schedules.dynamic_shift(100, base_tokens=100, base_shift=0.0)
        assert short == 1
        assert Rectified(schedules.dynamic_shift(1024)).warp(0.5) > 0.5

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"tokens": 0}, r"tokens = 0 is not a positive integer; give 1 or more"),
            ({"tokens": True}, r"tokens = True is not a positive integer"),
            ({"tokens": 64.5}, r"tokens = 64.5 is not a positive integer"),
            ({"tokens": 9, "max_tokens": -1}, r"max_tokens = -1 is not a positive integer"),
            ({"tokens": 9, "max_tokens": 256}, r"base_tokens = max_tokens = 256; give two"),
            ({"tokens": 9, "kind": "cosine"}, r"kind = 'cosine' is unknown"),
            ({"tokens": 9, "kind": "linear", "base_shift": -1}, r"no linear shift; give others"),
            ({"tokens": 9, "max_shift": math.nan}, r"make mu = nan at tokens = 9"),
        ],
    )
    def test_errors(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            schedules.dynamic_shift(**arguments)
