"""STORK: its sweep against the recurrence of its code, its orders, its limits and refusals."""

import math

import numpy as np
import pytest
import torch

import fastgen
from fastgen.plans.forms import Let
from fastgen.schedules import LinearVP, Rectified
from fastgen.solvers.stabilised import gegenbauer
from tests.support.closed_forms import Mixture
from tests.support.orders import check_slope, result


def sweep(velocity, h, stages, nodes):
    """One step of STORKScheduler's recurrence from x = 0, t = 0, with the nodes given."""

    def b(j):
        return (1, 1 / 3)[j] if j < 2 else 4 * (j - 1) * (j + 4) / (3 * math.prod(range(j, j + 4)))

    scale = 6 / ((stages + 4) * (stages - 1))
    older, y = 0.0, scale * h * velocity(0.0)
    for j in range(2, stages + 1):
        mu, nu = (2 * j + 1) * b(j) / (j * b(j - 1)), -(j + 1) * b(j) / (j * b(j - 2))
        gamma = -mu * scale * (1 - j * (j + 1) * b(j - 1) / 2)
        change = mu * scale * velocity(nodes(j - 1) * h) + gamma * velocity(0.0)
        older, y = y, mu * y + nu * older + h * change
    return y


def legendre(stages):
    """The nodes in STORKScheduler."""
    total = stages**2 + stages - 2
    return lambda j: 4 / (3 * total) if j == 1 else (j**2 + j - 2) / total


def gegenbauers(stages):
    """The factor of h in Y_j, for dx/dt = 1."""
    total = (stages - 1) * (stages + 4)
    return lambda j: 6 / total if j == 1 else (j - 1) * (j + 4) / total


@pytest.mark.parametrize("stages", [3, 4, 10, 50])
def test_the_sweep_is_the_recurrence_of_its_code_at_consistent_nodes(stages):
    grid, s, t = [0.9, 0.7, 0.6], 0.6, 0.35
    kept, weights = gegenbauer(lambda t: (0.0, 1.0), grid, s, t, stages)
    values = np.random.default_rng(stages).standard_normal(3)
    polynomial = np.polynomial.Polynomial(np.polyfit(grid, values, 2)[::-1])
    h = t - s
    ours = sweep(lambda d: polynomial(s + d), h, stages, gegenbauers(stages))
    assert kept == pytest.approx(1, abs=1e-13)
    np.testing.assert_allclose(np.dot(weights, values), ours, rtol=1e-11)
    # The mean of t over [0, h]: with the nodes of its code a first-order error is left.
    means = [sweep(lambda d: d, h, stages, n(stages)) for n in (gegenbauers, legendre)]
    assert means[0] == pytest.approx(h**2 / 2, rel=1e-11)
    assert means[1] != pytest.approx(h**2 / 2, rel=1e-3)


@pytest.mark.parametrize(("stages", "third"), [(3, 3 / 14), (1000, 1 / 4)])
def test_the_sweep_is_of_second_order_with_any_number_of_stages(stages, third):
    """It integrates 1 and t exactly, and t^2 to h^3 / 4 at most, not h^3 / 3."""
    _, weights = gegenbauer(lambda t: (0.0, 1.0), [-2.0, -1.0, 0.0], 0.0, 1.0, stages)
    moments = [np.dot(weights, np.array([-2.0, -1.0, 0.0]) ** k) for k in range(3)]
    assert moments == pytest.approx([1, 1 / 2, third], rel=1e-5)


@pytest.mark.parametrize("stiffness", [1.0, 100.0, 800.0])
def test_the_sweep_is_stable_where_one_explicit_stage_is_not(stiffness):
    """50 stages damp dx/dt = -stiffness x with h = 1; up to about stages^2 / 3."""
    kept, _ = gegenbauer(lambda t: (-stiffness, 0.0), [0.0], 0.0, 1.0, 50)
    assert abs(kept) < 1
    if stiffness == 1.0:
        assert kept == pytest.approx(math.exp(-1), abs=5e-2)


@pytest.mark.parametrize(
    ("nominal", "options"),
    [
        (3, {"order": 4}),
        (3, {"order": 4, "derivatives": 3}),
        (2, {"order": 2}),
        (2, {"order": 2, "stages": 5}),
        (2, {"order": 2, "prediction": "noise"}),
    ],
)
@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param(LinearVP(), id="vp", marks=pytest.mark.slow),
        pytest.param(Rectified(), id="flow"),
    ],
)
def test_order_after_an_accurate_start(nominal, options, schedule):
    """An error of the third derivative, small at first, still adds to the slope of order 2."""
    if nominal > 2:
        nominal += options.get("derivatives", 2) - 2
    counts = (192, 272, 384) if nominal == 2 else (64, 90, 128)
    check_slope("stork", nominal, counts, schedule, Mixture(), graded=True, slack=0.4, **options)


def last_weights(solver, **options):
    times = [1.0, 0.8, 0.7, 0.5, 0.35, 0.2]
    plan = fastgen.plan(solver, Rectified(), timesteps=times, **options)
    (form,) = [i.form for i in plan.instructions if isinstance(i, Let) and i.value == plan.result]
    return [
        c
        for _, c in sorted(
            (symbol.evaluation, c)
            for symbol, c in form.terms.items()
            if hasattr(symbol, "evaluation")
        )
    ]


@pytest.mark.parametrize("derivatives", [2, 3])
def test_order_4_in_velocity_form_is_adams_bashforth_with_a_history(derivatives):
    ours = last_weights("stork", derivatives=derivatives)
    assert len(ours) == derivatives + 1
    assert ours == pytest.approx(last_weights("adams_bashforth", order=derivatives + 1))


def test_first_step_has_one_more_evaluation_in_its_middle():
    plan = fastgen.plan("stork", LinearVP(), 5, timesteps="uniform", stages=20)
    assert plan.nfe == 6
    assert plan.evaluations[1].time == (plan.times[0] + plan.times[1]) / 2


@pytest.mark.parametrize("options", [{}, {"order": 2}, {"order": 2, "prediction": "noise"}])
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_runs_to_clean_data_from_pure_noise(steps, options):
    """alpha = 0 at the start and sigma = 0 at the end, on rectified and on VP flows."""
    for schedule in (LinearVP(), Rectified()):
        times = np.linspace(1, 0, steps + 1)
        x = result("stork", times, schedule, "data", **options)
        assert torch.isfinite(x).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 3}, "order=3"),
        ({"order": 4, "prediction": "noise"}, "deis"),
        ({"derivatives": 4}, "derivatives=4"),
        ({"stages": 2}, "stages=2"),
        ({"prediction": "data"}, "prediction='data'"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        fastgen.plan("stork", LinearVP(), 5, **options)
