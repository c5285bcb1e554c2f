"""Runge-Kutta in other variables, gradient estimation: order for all options, limits, stages."""

import numpy as np
import pytest

import fastgen
from fastgen.schedules import EDM, LinearVP, Rectified
from fastgen.solvers.velocity_rk import TABLEAUS
from tests.support.closed_forms import Gaussian, Mixture
from tests.support.orders import (
    EVERY_SCHEDULE,
    SCHEDULES,
    check_limits,
    check_slope,
    measured,
    result,
    same,
    times_at,
)

SOLVERS = {  # evaluations per step
    "euler": 1,
    "midpoint": 2,
    "ralston": 2,
    "rk3": 3,
    "three_eighths": 4,
    "rho_rk": 2,
    "dpm_2": 2,
    "heunpp2": 3,
    "gradient_estimation": 1,
}
ORDERS = {
    "euler": 1,
    "midpoint": 2,
    "heun": 2,
    "ralston": 2,
    "rk3": 3,
    "rk4": 4,
    "three_eighths": 4,
}


@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize("method", TABLEAUS)
def test_order_of_rho_rk(method, prediction):
    options = {"method": method, "prediction": prediction}
    counts = (24, 34, 48)
    check_slope("rho_rk", ORDERS[method], counts, LinearVP(), Mixture(), slack=0.35, **options)


@pytest.mark.parametrize(
    ("solver", "order", "options"),
    [
        ("euler", 1, {"variable": "sigma"}),
        ("euler", 1, {"variable": "log_snr"}),
        ("gradient_estimation", 1, {"gamma": 1.0}),
        ("gradient_estimation", 2, {"gamma": 1.5}),
        ("heunpp2", 1, {}),
        ("dpm_2", 2, {}),
    ],
)
def test_order_of_options(solver, order, options):
    for schedule, data in ((LinearVP(), Gaussian()), (Rectified(), Mixture())):
        check_slope(solver, order, (34, 48, 68), schedule, data, **options)


@pytest.mark.parametrize(("method", "order"), ORDERS.items())
def test_velocity_tableaus_on_a_mixture(method, order):
    """Not on a Gaussian: midpoint's leading error vanishes there on straight paths (slope 3)."""
    counts = (48, 68, 96) if order < 3 else (24, 34, 48)
    check_slope(method, order, counts, Rectified(), Mixture(), slack=0.3)


def test_rho_heun_is_heun_where_sigma_is_linear_in_t():
    """EDM: alpha = 1, sigma proportional to t, so both solve the same equation."""
    times = fastgen.timesteps.times("karras", EDM(0.1, 10.0), 8, end=0.02)
    for method in ("heun", "rk4"):
        a = result("rho_rk", times, EDM(0.1, 10.0), method=method)
        assert same(a, result(method, times, EDM(0.1, 10.0)), 1e-11)


def test_dpm_2_evaluates_at_geometric_means():
    schedule = LinearVP()
    plan = fastgen.plan("dpm_2", schedule, 5, end=0.1)
    ratios = schedule.ratio(plan.times)
    middle = [schedule.ratio(e.time) for e in plan.evaluations[1::2]]
    np.testing.assert_allclose(middle, np.sqrt(ratios[1:] * ratios[:-1]), rtol=1e-12)


def test_nodes_of_heunpp2():
    """Evaluations at this and the next two times; two in the last step but one, then one."""
    plan = fastgen.plan("heunpp2", LinearVP(), 4, end=0.1)
    t = plan.times
    nodes = [*t[:3], *t[1:4], *t[2:4], t[3]]
    np.testing.assert_allclose([e.time for e in plan.evaluations], nodes)


def heunpp2(model, x, sigmas):
    """ComfyUI's formulas, written out for a denoiser."""
    for i in range(len(sigmas) - 1):
        ahead = min(3, len(sigmas) - 1 - i)
        point, slopes = x, []
        for j in range(i, i + ahead):
            slopes.append((point - model(point, sigmas[j])) / sigmas[j])
            point = point + slopes[-1] * (sigmas[j + 1] - sigmas[j])
        later = [sigmas[i + j] / (ahead * sigmas[0]) for j in range(1, ahead)]
        mean = sum(w * d for w, d in zip([1 - sum(later), *later], slopes, strict=True))
        x = x + mean * (sigmas[i + 1] - sigmas[i])
    return x


def test_heunpp2_values():
    schedule, data = EDM(0.1, 10.0), Mixture()
    times = fastgen.timesteps.times("karras", schedule, 6)
    sigmas = schedule.sigma(times)
    x = fastgen.randn((4, 2), seed=1).double() * 10
    model = fastgen.Model(
        lambda x, s: data.data(schedule, x, schedule.time_at_ratio(float(s[0]))),
        schedule,
        "data",
        time_input="sigma",
        time_dtype=x.dtype,
    )
    mine = fastgen.sample(model, x, "heunpp2", timesteps=times, dtype=x.dtype, backend="reference")
    peer = heunpp2(lambda x, s: data.data(schedule, x, schedule.time_at_ratio(s)), x, sigmas)
    assert same(mine, peer)


@pytest.mark.parametrize("schedule", EVERY_SCHEDULE)
@pytest.mark.parametrize("solver", SOLVERS)
def test_singular_ends_and_stages(solver, schedule):
    for steps, grid in ((1, "uniform"), (2, "karras"), (3, "uniform"), (7, "karras")):
        plan = check_limits(solver, SCHEDULES[schedule], steps, timesteps=grid)
        assert plan.nfe <= steps * SOLVERS[solver]
    for options in {
        "euler": [{"variable": "sigma"}, {"variable": "log_snr"}],
        "rho_rk": [{"method": m, "prediction": p} for m in TABLEAUS for p in ("data", "noise")],
    }.get(solver, []):
        check_limits(solver, SCHEDULES[schedule], 3, **options)


def test_values_from_one_to_zero_on_rectified_flow():
    for solver in SOLVERS:
        # those with a node at the end evaluate at t = 0, where the closed form is 0 / 0
        end = 0.01 if solver in ("rk3", "three_eighths") else 0.0
        (error,) = measured(solver, Rectified(), Gaussian(), [np.linspace(1, end, 41)])
        assert error < 0.1, (solver, error)


def test_euler_variables():
    times = times_at(LinearVP(), np.linspace(0, 1, 7))
    assert same(result("euler", times, variable="sigma"), result("ddim", times))
    with pytest.raises(ValueError, match="variable='lambda'"):
        fastgen.plan("euler", LinearVP(), 4, variable="lambda")


@pytest.mark.parametrize(
    ("solver", "options", "message"),
    [
        ("rho_rk", {"method": "rk5"}, "method='rk5'"),
        ("rho_rk", {"prediction": "v"}, "prediction='v'"),
        ("gradient_estimation", {"gamma": -1.0}, "gamma=-1.0"),
    ],
)
def test_errors(solver, options, message):
    with pytest.raises(ValueError, match=message):
        fastgen.plan(solver, LinearVP(), 4, **options)
