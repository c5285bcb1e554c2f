"""Exponential Runge-Kutta: phi functions, order for all options, identities, limits."""

import itertools

import mpmath
import numpy as np
import pytest

import fastgen
from fastgen.plans import Builder
from fastgen.plans.forms import Let, Value
from fastgen.schedules import LinearVP, Rectified
from fastgen.solvers import exponential_rk
from fastgen.solvers.exponential_rk import interval, lagrange_weights, moments, phi
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

SINGLE = {  # solver: evaluations per step
    "dpm_solver_1": 1,
    "dpm_solver_2": 2,
    "dpm_solver_3": 3,
    "dpmpp_2s": 2,
    "dpmpp_3s": 3,
    "dpm_solver_singlestep": 1,
    "res_2s": 2,
    "res_3s": 3,
    "exponential_midpoint": 2,
    "exponential_heun": 2,
    "exponential_ralston": 2,
    "exponential_rk3": 3,
    "exponential_rk4": 4,
}


@pytest.mark.parametrize("k", range(9))
def test_phi_to_float64(k):
    with mpmath.workdps(60):
        for magnitude in (0, 1e-300, 1e-12, 1e-5, 0.01, 0.3, 1, 2.7, 5, 9.9, 19.9, 20.1, 35, 90):
            for z in (magnitude, -magnitude):
                exact = mpmath.hyp1f1(1, k + 1, mpmath.mpf(z)) / mpmath.factorial(k)
                assert abs(phi(k, float(z)) / exact - 1) < 1e-15, z


@pytest.mark.parametrize("z", [-12.0, -0.3, 0.0, 1e-9, 2.5])
def test_moments_and_lagrange_weights_integrate_polynomials(z):
    rng = np.random.default_rng(1)
    x, w = np.polynomial.legendre.leggauss(60)
    tau, w = (x + 1) / 2, w / 2 * np.exp((1 - (x + 1) / 2) * z)
    for count in range(1, 7):
        np.testing.assert_allclose(
            moments(z, count), [w @ tau**k for k in range(count)], rtol=1e-13
        )
        nodes = -np.cumsum(rng.uniform(0.3, 1.0, count))
        weights = np.array(lagrange_weights(list(nodes), moments(z, count)))
        for k in range(count):
            scale = np.abs(weights) @ np.abs(nodes) ** k
            assert abs(weights @ nodes**k - w @ tau**k) < 1e-13 * scale


OPTIONS = [
    ("dpm_solver_2", 2, {"r1": 0.3}),
    ("dpm_solver_2", 2, {"r1": 1.0}),
    ("dpm_solver_2", 2, {"solver_type": "heun"}),
    ("dpm_solver_3", 3, {"solver_type": "midpoint"}),
    ("dpm_solver_3", 3, {"solver_type": "heun", "r1": 0.4}),
    ("dpmpp_2s", 2, {"r": 0.7}),
    ("dpmpp_2s", 2, {"solver_type": "heun"}),
    ("dpmpp_3s", 3, {"solver_type": "midpoint"}),
    # away from c3 = 2/3 an order is lost, the quadratic's too
    ("dpmpp_3s", 2, {"r1": 0.3, "r2": 0.9}),
    ("dpmpp_3s", 2, {"solver_type": "heun", "r1": 0.5, "r2": 1.0}),
    ("res_2s", 2, {"c2": 0.9}),
    ("res_3s", 3, {"c2": 1 / 3, "c3": 2 / 3}),
    ("res_3s", 3, {"c2": 0.4, "c3": 0.8}),
    ("exponential_midpoint", 2, {"prediction": "noise"}),
    ("exponential_heun", 2, {"prediction": "noise"}),
    ("exponential_ralston", 2, {"prediction": "noise"}),
    ("exponential_rk3", 3, {"prediction": "noise"}),
    ("exponential_rk4", 4, {"prediction": "noise"}),
]


@pytest.mark.parametrize(("solver", "order", "options"), OPTIONS)
@pytest.mark.parametrize(
    "data",
    [Mixture(), pytest.param(Gaussian(), marks=pytest.mark.slow)],
    ids=["mixture", "gaussian"],
)
def test_order_of_every_option(solver, order, options, data):
    counts = (34, 48, 68) if order == 3 else (24, 34, 48)
    check_slope(solver, order, counts, LinearVP(), data, slack=0.3, **options)


@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_order_of_singlestep_blocks(order, solver_type, prediction):
    """Counts are multiples of the order: whole blocks, without a shorter last one."""
    counts = (36, 48, 66)
    options = {"order": order, "solver_type": solver_type, "prediction": prediction}
    data = Mixture()
    check_slope("dpm_solver_singlestep", order, counts, LinearVP(), data, slack=0.3, **options)


def test_identities():
    times = times_at(LinearVP(), np.array([0, 0.2, 0.3, 0.6, 0.8, 1.0]))
    ddim = result("ddim", times)
    for solver, options in (
        ("dpm_solver_1", {}),
        ("dpm_solver_singlestep", {"order": 1}),
        ("dpm_solver_singlestep", {"order": 1, "prediction": "noise"}),
        ("euler", {"variable": "sigma"}),
        ("rho_rk", {"method": "euler"}),
        ("rho_rk", {"method": "euler", "prediction": "data"}),
    ):
        assert same(result(solver, times, **options), ddim)
    for a, b in (
        (("exponential_midpoint", {}), ("dpmpp_2s", {"r": 0.5})),
        (("exponential_midpoint", {"prediction": "noise"}), ("dpm_solver_2", {})),
        (("exponential_heun", {}), ("res_2s", {"c2": 1.0})),
        (("exponential_ralston", {}), ("dpmpp_2s", {"r": 2 / 3, "solver_type": "heun"})),
        # gamma = 0 at c3 = 2/3: RES 3S is then DPM-Solver++ (3S)
        (("res_3s", {"c2": 1 / 3, "c3": 2 / 3}), ("dpmpp_3s", {})),
    ):
        assert same(result(a[0], times, **a[1]), result(b[0], times, **b[1])), (a, b)


def test_singlestep_on_log_snr_thirds_is_dpm_solver_3():
    schedule = LinearVP()
    coarse = times_at(schedule, np.linspace(0, 1, 5))
    fine = times_at(schedule, np.linspace(0, 1, 13))
    options = {"order": 3, "prediction": "noise", "solver_type": "dpmsolver"}
    assert same(
        result("dpm_solver_singlestep", fine, **options), result("dpm_solver_3", coarse), 1e-10
    )


@pytest.mark.parametrize(
    ("n", "end", "blocks"),
    [(6, 0.0, [3, 2, 1]), (7, 0.0, [3, 3, 1]), (8, 0.0, [3, 3, 1, 1]), (6, 0.1, [3, 3])],
)
def test_singlestep_blocks(n, end, blocks):
    plan = fastgen.plan(
        "dpm_solver_singlestep", LinearVP(), n, end=end, order=3, timesteps="uniform"
    )
    forms = {i.value: i.form for i in plan.instructions if isinstance(i, Let)}
    start = [forms[state.value].terms for state in plan.states]
    bases = [next((v for v in terms if isinstance(v, Value)), None) for terms in start]
    assert [len(list(group)) for _, group in itertools.groupby(bases)] == blocks
    assert plan.nfe == len(plan.states) == n


def test_tableaus_reduce_to_classical_weights():
    """At h = 0: Kutta's third-order method and the classical fourth-order one."""
    for tableau, b in (
        (exponential_rk.ETD3RK, (2 / 3, 1 / 6)),
        (exponential_rk.ETD4RK, (1 / 3, 1 / 3, 1 / 6)),
    ):
        np.testing.assert_allclose(tableau.rows[-1](0.0), b, rtol=1e-15)


def test_a_constant_prediction_is_exact_in_both_forms():
    schedule = LinearVP()
    for prediction in ("data", "noise"):
        step = interval(Builder(schedule), 0.7, 0.3, prediction)
        clean, noise = 0.3, -1.2
        x_s = schedule.alpha(0.7) * clean + schedule.sigma(0.7) * noise
        x_t = schedule.alpha(0.3) * clean + schedule.sigma(0.3) * noise
        value = clean if prediction == "data" else noise
        assert step.keep * x_s + step.scale * phi(1, step.z) * value == pytest.approx(x_t)


@pytest.mark.parametrize("schedule", EVERY_SCHEDULE)
@pytest.mark.parametrize("solver", SINGLE)
def test_singular_ends_and_stages(solver, schedule):
    for steps, grid in ((1, "uniform"), (2, "karras"), (3, "uniform"), (7, "karras")):
        plan = check_limits(solver, SCHEDULES[schedule], steps, timesteps=grid)
        assert plan.nfe <= steps * SINGLE[solver]
    plan = fastgen.plan(solver, SCHEDULES[schedule], 6, start=0.9, end=0.1)
    assert plan.nfe == 6 * SINGLE[solver]


def test_values_at_the_singular_ends():
    """Rectified flow from t = 1 to t = 0: finite results, near the exact flow."""
    schedule, data = Rectified(), Gaussian()
    for solver in SINGLE:
        (error,) = measured(solver, schedule, data, [np.linspace(1, 0, 41)])
        assert error < 0.1, (solver, error)


@pytest.mark.parametrize(
    ("solver", "options", "message"),
    [
        ("dpm_solver_2", {"r1": 0.0}, "0 < node <= 1"),
        ("dpm_solver_3", {"r1": 0.5, "r2": 0.5}, "different nodes"),
        ("dpmpp_2s", {"solver_type": "huen"}, "solver_type='huen'.*heun"),
        ("dpm_solver_singlestep", {"order": 4}, "order=4"),
        ("exponential_rk4", {"prediction": "velocity"}, "prediction='velocity'"),
        ("res_3s", {"c2": 2 / 3}, "c2 other than 2/3"),
    ],
)
def test_errors(solver, options, message):
    with pytest.raises(ValueError, match=message):
        fastgen.plan(solver, LinearVP(), 4, **options)
