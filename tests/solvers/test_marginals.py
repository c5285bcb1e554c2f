"""Stochastic solvers: exact mean and variance of what they return, their weak order, the sampler.

For Gaussian data a plan is linear in Gaussian variables, so mean and variance of its result are
computed without sampling (`closed_forms.propagate`) and compared with the reverse process in
closed form. Monte Carlo then only has to confirm that the sampler runs the plan.
"""

import numpy as np
import pytest
import torch

import fastgen
from fastgen import solvers, timesteps
from fastgen.schedules import EDM, VE, CosineVP, LinearVP, Rectified
from tests.support.closed_forms import CORE, Gaussian, network, propagate, slope

GAUSSIAN = Gaussian()
# As in test_order: away from the ends, and steps even where the process changes evenly.
SETTINGS = {
    "linear_vp": (LinearVP(), "log_snr", 1.0, 0.05),
    "cosine_vp": (CosineVP(), "log_snr", 0.95, 0.05),
    "rectified": (Rectified(), "log_snr", 0.95, 0.05),
    "edm": (EDM(0.1, 10.0), "karras", 1.0, 0.02),
    "ve": (VE(0.1, 10.0), "uniform", 1.0, 0.05),
}
COUNTS = (24, 36, 54, 81, 121)
STOCHASTIC = [n for n in solvers.names() if solvers.get(n).stochastic]
# Stochastic solvers that do not converge in the number of steps alone, with the reason.
EXEMPT = {
    "bridge_sde": "its noise is that of a bridge and does not fall with t: test_bridge_sde.py",
    "annealed_langevin": "converges in step_size and corrector_steps, not in the number of levels",
    "consistency": "draws from a consistency function; a denoiser is not one",
    "cps": "the noise of a step does not fall with its length: test_stochastic.py",
    "lcm": "draws from a consistency function; a denoiser is not one",
    "predictor_corrector": "its Langevin steps keep their length 2 (snr sigma)^2 and so their bias",
    "restart": "the steps inside its restart intervals are an option, not the grid",
    "tcd": "draws from a consistency function; a denoiser is not one",
}
# eta of the process that a solver converges to; None where its noise level is a function of t of
# another shape, or it goes back and forth: then only the marginal is compared, the same for all.
LIMIT = dict.fromkeys(["er_sde_1", "er_sde_2", "er_sde_3", "flow_grpo", "precise", "repaint"])
# More steps where 121 are not yet asymptotic.
MORE = {"seeds_3": (80, 110, 150, 200, 270)}
# Multistep methods of third order whose first steps are of lower order, see test_order.
FULL_ORDER = {"dpmpp_3m_sde": 3, "sa_solver": 3}
# (solver, options, eta of the limiting process)
PLAIN = [(name, {}, LIMIT.get(name, 1.0)) for name in STOCHASTIC if name not in EXEMPT]
WITH_OPTIONS = [
    ("ddpm", {"variance": "large"}, 1.0),
    ("ddpm", {"variance": 0.3}, 1.0),
    ("ddim", {"eta": 0.5}, 0.5),
    ("ddim", {"eta": 1.0}, 1.0),
    ("euler_ancestral", {"eta": 0.5}, 0.5),
    ("euler_ancestral", {"eta": 0.0}, 0.0),
    ("predictor_corrector", {"corrector_steps": 0}, 1.0),
    ("predictor_corrector", {"corrector_steps": 0, "eta": 0.5}, 0.5),
]


EVERY = [*PLAIN, *WITH_OPTIONS]


def slow_unless(condition, cases=EVERY):
    return [c if condition(c[0]) else pytest.param(c, marks=pytest.mark.slow) for c in cases]


CASES = slow_unless(lambda name: name in CORE)
# Euler steps of the drift: the mean of what they return has their error, which is of order 1 or 2.
OF_THE_DRIFT = {"euler_maruyama", "flow_grpo", "flow_sde", "flow_sde_heun", "stochastic_heun"}
EXACT_LINEAR_PART = slow_unless(
    lambda name: name in CORE, [c for c in EVERY if c[0] not in OF_THE_DRIFT]
)


def named(case):
    name, options, _ = case
    return "-".join([name, *(f"{k}={v}" for k, v in options.items())])


def test_every_solver_without_an_order_is_listed_with_a_reason():
    assert {n for n in STOCHASTIC if solvers.get(n).order is None} <= set(EXEMPT)
    assert set(EXEMPT) <= set(STOCHASTIC)


SLOW = [pytest.param(s, marks=pytest.mark.slow) for s in SETTINGS if s != "edm"]


@pytest.mark.parametrize("setting", ["edm", *SLOW])
@pytest.mark.parametrize("case", slow_unless(lambda name: name not in MORE), ids=named)
def test_weak_order(case, setting):
    """From a law shifted in mean and variance, the law at the end, against the reverse SDE's.

    One step with eta = 1 has exactly the mean of x_t given x_s (the data prediction is a
    conditional mean and the posterior is linear in it): those means carry no error at all. The
    order is that of the worse of mean and variance.
    """
    name, options, eta = case
    counts = MORE.get(name, COUNTS)
    schedule, grid, start, end = SETTINGS[setting]
    mean, variance = GAUSSIAN.marginal(schedule, start)
    shift, excess = 0.5 * np.sqrt(variance), 0.4 * variance
    if eta is None:
        shift, excess = np.zeros(4), np.zeros(4)
    wanted_mean, wanted = GAUSSIAN.reverse_sde(schedule, shift, excess, start, end, eta or 0.0)
    scale = GAUSSIAN.marginal(schedule, end)[1]
    of_mean, of_variance = [], []
    for n in counts:
        plan = fastgen.plan(name, schedule, n, timesteps=grid, start=start, end=end, **options)
        m, v = propagate(plan, GAUSSIAN, mean + shift, variance + excess)
        of_mean.append(np.sqrt(np.mean((m - wanted_mean) ** 2 / scale)))
        of_variance.append(np.sqrt(np.mean(((v - wanted) / scale) ** 2)))
    # predictor_corrector without corrector steps is the ancestral solver.
    order = solvers.get("ddpm" if name == "predictor_corrector" else name).order
    assert of_variance[-1] < 0.1
    exact = eta is None or (eta == 1.0 and max(of_mean) < 1e-12)
    slopes = [slope(counts, e) for e in ([of_variance] if exact else [of_variance, of_mean])]
    above = FULL_ORDER.get(name, order)
    assert order - 0.25 < min(slopes) < above + 0.25, (slopes, of_variance, of_mean)


@pytest.mark.parametrize("case", EXACT_LINEAR_PART, ids=named)
def test_the_marginal_mean_is_kept_exactly(case):
    """The denoiser is exact at the mean: no solver of exact linear part may move it."""
    name, options, _ = case
    for schedule, grid, start, end in SETTINGS.values():
        plan = fastgen.plan(name, schedule, 7, timesteps=grid, start=start, end=end, **options)
        mean, variance = GAUSSIAN.marginal(schedule, start)
        m, _ = propagate(plan, GAUSSIAN, mean, variance)
        np.testing.assert_allclose(m, GAUSSIAN.marginal(schedule, end)[0], atol=1e-12)


@pytest.mark.parametrize("schedule", [LinearVP(), Rectified(), VE()], ids=repr)
def test_one_ancestral_step_to_a_posterior_has_the_exact_law(schedule):
    """For a point mass the posterior of one step is the exact law of x_t."""
    point = Gaussian((0.7, -2.0), (0.0, 0.0))
    mean, variance = point.marginal(schedule, 0.8)
    for name, options in (("ddpm", {}), ("ddim", {"eta": 1.0}), ("euler_ancestral", {})):
        plan = fastgen.plan(name, schedule, timesteps=[0.8, 0.3], **options)
        m, v = propagate(plan, point, mean, variance)
        wanted_mean, wanted = point.marginal(schedule, 0.3)
        np.testing.assert_allclose(m, wanted_mean, rtol=1e-12)
        np.testing.assert_allclose(v, wanted, rtol=1e-12)


def langevin_variance(schedule, t, tau):
    """Stationary variance of x <- x + tau score + sqrt(2 tau) z: v / (1 - tau / (2 v))."""
    _, v = GAUSSIAN.marginal(schedule, t)
    return v / (1 - tau / (2 * v))


def test_annealed_langevin_reaches_the_level_with_the_stated_bias():
    schedule, levels, end = Rectified(), [0.9, 0.6], 0.5
    mean, variance = GAUSSIAN.marginal(schedule, 0.9)
    rescale = schedule.alpha(end) / schedule.alpha(levels[-1])
    target_mean, target = GAUSSIAN.marginal(schedule, levels[-1])
    sizes, biases = (0.4, 0.28, 0.2, 0.14, 0.1), []
    for size in sizes:
        plan = fastgen.plan(
            "annealed_langevin",
            schedule,
            timesteps=[*levels, end],
            step_size=size,
            corrector_steps=round(40 / size),
        )
        m, v = propagate(plan, GAUSSIAN, mean + 1.0, 2 * variance)
        stationary = langevin_variance(schedule, levels[-1], size * schedule.sigma(0.6) ** 2)
        np.testing.assert_allclose(m, rescale * target_mean, atol=1e-6)
        np.testing.assert_allclose(v, rescale**2 * stationary, rtol=1e-6)
        biases.append(np.abs(v / rescale**2 - target).max())
    assert abs(slope(1 / np.array(sizes), biases) - 1) < 0.25, biases


def test_annealed_langevin_ends_in_the_denoised_last_level():
    """At t = 0 the result is the data prediction, whose variance is c^2 (alpha^2 c^2 / v)."""
    schedule, last = LinearVP(), 0.3
    plan = fastgen.plan(
        "annealed_langevin",
        schedule,
        timesteps=[0.6, last, 0.0],
        step_size=0.05,
        corrector_steps=500,
    )
    mean, variance = GAUSSIAN.marginal(schedule, 0.6)
    m, v = propagate(plan, GAUSSIAN, mean, variance)
    stationary = langevin_variance(schedule, last, 0.05 * schedule.sigma(last) ** 2)
    gain, _ = GAUSSIAN.affine(schedule, last)
    np.testing.assert_allclose(m, GAUSSIAN.mean, atol=1e-9)
    np.testing.assert_allclose(v, gain**2 * stationary, rtol=1e-3)


@pytest.mark.parametrize("setting", ["rectified", "edm"])
def test_predictor_corrector_converges_to_the_stationary_law_of_its_corrector(setting):
    """With more steps the corrector wins: variance v / (1 - tau / (2 v)), tau = 2 (snr sigma)^2.

    That is a bias of snr^2 sigma^2 / v, so it vanishes with snr and not with the steps.
    """
    schedule, grid, start, _ = SETTINGS[setting]
    end = schedule.time_at_ratio(1.0)  # where sigma is not small: the corrector equilibrates
    mean, variance = GAUSSIAN.marginal(schedule, start)
    target_mean, target = GAUSSIAN.marginal(schedule, end)
    stationary = langevin_variance(schedule, end, 2 * (0.3 * schedule.sigma(end)) ** 2)
    found = []
    for n in COUNTS:
        plan = fastgen.plan(
            "predictor_corrector",
            schedule,
            n,
            timesteps=grid,
            start=start,
            end=end,
            snr=0.3,
            corrector_steps=2,
        )
        m, v = propagate(plan, GAUSSIAN, mean, variance)
        np.testing.assert_allclose(m, target_mean, atol=1e-12)
        found.append(np.sqrt(np.mean(((v - stationary) / target) ** 2)))
    assert abs(slope(COUNTS, found) - 1) < 0.35, found
    assert found[-1] < 0.2 * np.abs(stationary / target - 1).max()


MONTE_CARLO = [
    *CASES,
    pytest.param(("restart", {"intervals": ((0.3, 1.0, 2, 2),)}, None), marks=pytest.mark.slow),
    ("euler_ancestral", {"eta": 0.8, "s_noise": 1.1}, None),
    ("predictor_corrector", {"snr": 0.3, "corrector_steps": 2}, None),
    ("annealed_langevin", {"corrector_steps": 3, "step_size": 0.3}, None),
]


@pytest.mark.parametrize("case", MONTE_CARLO, ids=named)
def test_the_sampler_draws_what_the_algebra_says(case):
    """2e5 samples through the real sampler: mean and std within 4 standard errors."""
    name, options, _ = case
    two = Gaussian((0.5, -1.0), (1.5, 0.3))
    schedule = LinearVP()
    plan = fastgen.plan(name, schedule, timesteps=[0.9, 0.6, 0.35, 0.1], **options)
    exact, variance = propagate(plan, two, 0.0, schedule.sigma(0.9) ** 2)
    model = fastgen.Model(network(two, schedule, "noise"), schedule, "noise")
    n = 200_000
    x = fastgen.Sampler(model, plan)((n, 2), seed=11).double()
    errors = (x.mean(0).numpy() - exact) / np.sqrt(variance / n)
    assert np.abs(errors).max() < 4, errors
    errors = (x.std(0).numpy() - np.sqrt(variance)) / np.sqrt(variance / (2 * n))
    assert np.abs(errors).max() < 4, errors
    correlation = torch.corrcoef(x.T)[0, 1].item()
    assert abs(correlation) < 4 / np.sqrt(n)


def test_propagation_agrees_with_the_canonical_form():
    """The same mean and variance from `plan.canonical()`, evaluation by evaluation."""
    schedule = Rectified()
    plan = fastgen.plan("ddpm", schedule, 5, start=0.95, end=0.05)
    a, b, c, quantities, times = plan.canonical()
    assert set(quantities) == {"data"}
    rows, outputs = [], []
    for k in range(plan.nfe + 1):
        row = np.zeros((2 + plan.draws, 4))  # constant, initial state, noises
        row[1] = a[k]
        row[2:] = c[k][:, None]
        row += sum((b[k, j] * u for j, u in enumerate(outputs)), np.zeros_like(row))
        rows.append(row)
        if k < plan.nfe:
            gain, offset = GAUSSIAN.affine(schedule, times[k])
            outputs.append(gain * row)
            outputs[-1][0] += offset
    constant, x, *noises = rows[-1]
    m, v = propagate(plan, GAUSSIAN, 0.3, 2.0)
    np.testing.assert_allclose(m, constant + 0.3 * x, rtol=1e-12)
    np.testing.assert_allclose(v, 2.0 * x**2 + sum(z**2 for z in noises), rtol=1e-12)


def test_grids_of_the_settings_are_regular():
    """The reasons given above hold: no setting starts at alpha = 0 or ends at sigma = 0."""
    for schedule, grid, start, end in SETTINGS.values():
        times = timesteps.times(grid, schedule, 24, start=start, end=end)
        assert np.isfinite(schedule.half_log_snr(times)).all()
