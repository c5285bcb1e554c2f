"""Deterministic solvers converge at their order to the exact probability-flow solution.

The slope of log error against log steps is regressed over the step counts of `COUNTS` and must be
within 0.25 of the nominal order. Data: a Gaussian (closed form) and a mixture (DOP853 at 1e-12).
"""

from functools import cache

import numpy as np
import pytest
import torch

import fastgen
from fastgen import solvers, timesteps
from fastgen.schedules import EDM, VE, CosineVP, LinearVP, Rectified
from fastgen.solvers import Tableau, registry, runge_kutta
from fastgen.solvers.adams import adams_weights
from tests.support.closed_forms import Gaussian, Mixture, network, propagate, slope, tiered

# Start and end keep away from where an order cannot show: sigma' is infinite at t = 0 for VP, and
# alpha = 0 at t = 1 makes the first exponential step infinitely long in log-SNR.
SETTINGS = {
    # log-SNR steps: the rate of LinearVP varies 200-fold, even times would waste most of them
    "linear_vp": (LinearVP(), "log_snr", 1.0, 0.05),
    # the cosine schedule was made for steps even in time, but dpmpp_2m then steps unevenly in
    # log-SNR near the ends and is not yet asymptotic at 100 steps: log-SNR again
    "cosine_vp": (CosineVP(), "log_snr", 0.95, 0.05),
    # straight paths: even times are what flow matching uses
    "rectified": (Rectified(), "uniform", 0.95, 0.05),
    # sigma from 10 to 0.2; Karras' grid is the one EDM is used with
    "edm": (EDM(0.1, 10.0), "karras", 1.0, 0.02),
    # even times of VE are even in log sigma
    "ve": (VE(0.1, 10.0), "uniform", 1.0, 0.05),
}
# Where the error is asymptotic and still far above rounding.
COUNTS = {1: (24, 36, 54, 81, 121), 2: (30, 42, 60, 85, 120), 3: (40, 56, 80, 112, 160)}
HIGH = (28, 40, 56, 80, 112)
GAUSSIAN, MIXTURE = Gaussian(), Mixture()

DETERMINISTIC = [n for n in solvers.names() if not solvers.get(n).stochastic]
# Deterministic solvers whose order the theory does not give, with the reason.
EXEMPT = {"mean_flow": "its network gives average velocities: exact for any number of steps"}
# Solvers whose full order is above the registered one, which is that of their lower-order first
# steps: an error of h^2 that no later step removes, and that is small enough for the slope to come
# down from the full order only at many steps.
FULL_ORDER = {
    "dpm_solver_3m": 3,
    "dpmpp_3m": 3,
    "ipndm": 4,
    "ipndm_v": 4,
    "lms": 4,
    "midpoint": 3,  # on the hyperbolas of a Gaussian under EDM and Rectified, see below
    "pndm": 4,
    "res_3m": 3,
    "stork": 3,
}

MIDPOINT = Tableau((0.0, 0.5), ((), (0.5,)), (0.0, 1.0))
RALSTON = Tableau((0.0, 2 / 3), ((), (2 / 3,)), (0.25, 0.75))
RK3 = Tableau((0.0, 0.5, 1.0), ((), (0.5,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6))
THREE_EIGHTHS = Tableau(
    (0.0, 1 / 3, 2 / 3, 1.0),
    ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    (1 / 8, 3 / 8, 3 / 8, 1 / 8),
)
# Order conditions violated beyond the first: first order although it has two stages.
LOPSIDED = Tableau((0.0, 0.5), ((), (0.5,)), (0.5, 0.5))


@pytest.fixture(autouse=True)
def one_thread():
    """torch's softmax wakes its threads even for 24 numbers: 20 times slower than one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def initial(schedule, start, dims):
    x = np.random.default_rng(0).standard_normal((4, dims)) * schedule.sigma(start)
    return torch.from_numpy(x)


def errors(name, data, schedule, grids, x, truth, backend, **options):
    """Root mean square errors of a solver on each grid."""
    model = fastgen.Model(
        network(data, schedule, "velocity"), schedule, "velocity", time_dtype=torch.float64
    )
    found = []
    for times in grids:
        result = fastgen.sample(
            model, x, name, timesteps=times, dtype=torch.float64, backend=backend, **options
        )
        found.append(np.sqrt(np.mean((result.numpy() - truth) ** 2)))
    return np.array(found)


@cache
def exact(setting, data):
    """Initial state and exact result; DOP853 at 1e-12 takes seconds on the mixture."""
    schedule, _, start, end = SETTINGS[setting]
    x = initial(schedule, start, 4 if data is GAUSSIAN else 2)
    return x, data.flow(schedule, x, start, end)


def problem(name, setting, data=GAUSSIAN, counts=None):
    """Schedule, step counts, grids, initial state and the exact result."""
    schedule, grid, start, end = SETTINGS[setting]
    order = solvers.get(name).order
    counts = counts or COUNTS.get(order, HIGH)
    grids = [timesteps.times(grid, schedule, n, start=start, end=end) for n in counts]
    return schedule, counts, grids, *exact(setting, data)


def check(name, counts, found, nominal=None):
    order = nominal or solvers.get(name).order
    upper = order + 0.25
    if nominal is None and name in FULL_ORDER:  # still curving at these step counts
        upper = FULL_ORDER[name] + 0.35
    assert found[0] < 0.2, f"{found}: not converging to the exact solution"
    assert order - 0.25 < slope(counts, found) < upper, f"{slope(counts, found)}: {found}"


def check_order(name, setting, backend, data=GAUSSIAN, nominal=None, **options):
    """By the sampler."""
    schedule, counts, grids, x, truth = problem(name, setting, data)
    found = errors(name, data, schedule, grids, x, truth, backend, **options)
    check(name, counts, found, nominal)


def test_every_solver_without_an_order_is_listed_with_a_reason():
    unknown = {n for n in DETERMINISTIC if solvers.get(n).order is None}
    assert unknown == set(EXEMPT)


def settings(*default):
    others = [pytest.param(s, marks=pytest.mark.slow) for s in SETTINGS if s not in default]
    return pytest.mark.parametrize("setting", [*default, *others])


OF_KNOWN_ORDER = [n for n in DETERMINISTIC if n not in EXEMPT]


# Planned by quadrature, some seconds for all step counts.
QUICK = [
    pytest.param(n, marks=pytest.mark.slow) if n in ("lms", "ipndm_v") else n
    for n in OF_KNOWN_ORDER
]


@settings("edm")
@pytest.mark.parametrize("name", QUICK)
def test_order_of_the_program(name, setting):
    """Every solver; the plan's own arithmetic on the affine denoiser, without the sampler."""
    schedule, counts, grids, x, truth = problem(name, setting)
    found = []
    for times in grids:
        plan = fastgen.plan(name, schedule, timesteps=times)
        result, _ = propagate(plan, GAUSSIAN, x.numpy(), 0.0)
        found.append(np.sqrt(np.mean((result - truth) ** 2)))
    check(name, counts, np.array(found))


@settings("cosine_vp")
@pytest.mark.parametrize("name", tiered(OF_KNOWN_ORDER))
def test_order_of_samples(name, setting, backend):
    check_order(name, setting, backend)


@settings("ve")
@pytest.mark.parametrize("name", tiered(OF_KNOWN_ORDER))
def test_order_on_a_mixture(name, setting):
    check_order(name, setting, None, MIXTURE)


def test_an_exponential_solver_is_exact_for_a_point_mass():
    """The data prediction of a point mass is constant, so one exponential step has no error."""
    point = Gaussian((0.7, -2.0), (0.0, 0.0))
    for setting, (schedule, _, start, end) in SETTINGS.items():
        x = initial(schedule, start, 2)
        truth = point.flow(schedule, x, start, end)
        for name in ("ddim", "dpmpp_2m"):
            (error,) = errors(name, point, schedule, [[start, end]], x, truth, None)
            assert error < 1e-13, (setting, name)


@pytest.mark.parametrize(
    ("tableau", "order"),
    [(MIDPOINT, 2), (RALSTON, 2), (RK3, 3), (THREE_EIGHTHS, 4), (LOPSIDED, 1)],
    ids=["midpoint", "ralston", "rk3", "three_eighths", "lopsided"],
)
def test_order_of_any_tableau(tableau, order, monkeypatch):
    monkeypatch.setattr(registry, "_SOLVERS", dict(registry._SOLVERS))
    solvers.register("custom", order=order, source="this test")(runge_kutta(tableau))
    # Not EDM or Rectified: their Gaussian paths are hyperbolas, on which the midpoint rule's
    # error constant integrates to zero and it converges with order 3.
    check_order("custom", "ve", None)
    check_order("custom", "rectified", None, MIXTURE)


WARM = [("adams_bashforth", {"order": k}, k) for k in (1, 2, 3, 4, 5)]
WARM += [("dpmpp_3m", {}, 3)]


@pytest.mark.parametrize(("name", "options", "order"), WARM)
def test_full_order_after_a_graded_start(name, options, order):
    """The first step is halved until the low orders at the start cost less than h^order.

    Steps then at most double, so that the extrapolation stays stable.
    """
    schedule, _, start, end = SETTINGS["rectified"]
    counts = (24, 34, 48, 68, 96) if order < 3 else (48, 60, 76, 96, 120)
    x = initial(schedule, start, 4)
    truth = GAUSSIAN.flow(schedule, x, start, end)
    found = []
    for n in counts:
        even = np.linspace(start, end, n + 1)
        halvings = 3 + round((order / 2 - 1) * np.log2(n)) if order > 2 else 0
        first = start - (start - even[1]) / 2.0 ** np.arange(halvings, 0, -1)
        plan = fastgen.plan(name, schedule, timesteps=[start, *first, *even[1:]], **options)
        result, _ = propagate(plan, GAUSSIAN, x.numpy(), 0.0)
        found.append(np.sqrt(np.mean((result - truth) ** 2)))
    # The highest order comes down to its slope from above: its error changes sign nearby.
    assert -0.25 < slope(counts, found) - order < (0.5 if order == 5 else 0.25), found


@pytest.mark.parametrize("order", [3, 4, 5])
def test_adams_bashforth_from_a_cold_start_is_of_second_order(order):
    """The first step is Euler's, with an error of h^2 that no later step removes."""
    check_order("adams_bashforth", "rectified", None, nominal=2, order=order, starter="lower")


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 8])
def test_adams_weights_integrate_polynomials_exactly(order):
    rng = np.random.default_rng(order)
    nodes = 0.4 + np.cumsum(rng.uniform(0.02, 0.1, order))[::-1]
    s, t = nodes[-1], nodes[-1] - 0.07
    weights = adams_weights(list(nodes), s, t)
    for degree in range(order):
        exact = (t ** (degree + 1) - s ** (degree + 1)) / (degree + 1)
        assert np.dot(weights, nodes**degree) == pytest.approx(exact, rel=1e-9)
