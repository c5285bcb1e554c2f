"""Multistep solvers: order after an accurate start, identities, stages, limits."""

import numpy as np
import pytest
import torch

import fastgen
from fastgen.model.parametrisation import Parametrisation
from fastgen.plans.forms import State
from fastgen.plans.program import Raw
from fastgen.schedules import CosineVP, DiscreteVP, LinearVP, Rectified
from fastgen.solvers.multistep import time_moments
from tests.support.closed_forms import Gaussian, Mixture
from tests.support.orders import (
    EVERY_SCHEDULE,
    SCHEDULES,
    check_limits,
    check_slope,
    measured,
    result,
    same,
    slope,
    times_at,
)

MULTISTEP = [
    "dpmpp_3m",
    "dpm_solver_2m",
    "dpm_solver_3m",
    "res_2m",
    "res_3m",
    "unipc",
    "deis",
    "lms",
    "ipndm",
    "ipndm_v",
    "pndm",
    "adams_bashforth_moulton",
]
PROBLEMS = {
    "gaussian, VP": (LinearVP(), Gaussian()),
    "mixture, VP": (LinearVP(), Mixture()),
    "mixture, rectified": (Rectified(), Mixture()),
}
VARIANTS = [
    *(("deis", k, {"order": k, "variable": v}) for k in range(1, 6) for v in ("t", "rho")),
    *(("deis", k, {"order": k, "variable": "log_rho"}) for k in (1, 2, 3, 4, 5)),
    *(("unipc", k, {"order": k, "corrector": False}) for k in (1, 2, 3, 4, 5)),
    *(("unipc", k + 1, {"order": k}) for k in (1, 2, 3, 4)),
    *(("unipc", 3, {"variant": v}) for v in ("bh1", "vary_coeff")),
    *(("unipc", k + 1, {"order": k, "prediction": "noise"}) for k in (1, 2, 3)),
    *(("adams_bashforth_moulton", k, {"order": k}) for k in (1, 2, 3, 4, 5)),
    *(("adams_bashforth_moulton", k, {"order": k, "mode": "PEC"}) for k in (2, 3, 4, 5)),
    ("dpmpp_3m", 3, {}),
    ("dpmpp_3m", 3, {"solver_type": "heun"}),
    ("dpm_solver_2m", 2, {"solver_type": "heun"}),
    ("dpm_solver_3m", 3, {}),
    ("res_3m", 3, {}),
    ("lms", 3, {"order": 3}),
    ("ipndm_v", 4, {"order": 4}),
]


@pytest.mark.parametrize(
    "problem",
    ["mixture, VP"]
    + [pytest.param(p, marks=pytest.mark.slow) for p in PROBLEMS if p != "mixture, VP"],
)
@pytest.mark.parametrize(
    ("solver", "order", "options"),
    [pytest.param(*v, marks=[pytest.mark.slow] if v[1] > 3 else []) for v in VARIANTS],
)
def test_order_of_every_option(solver, order, options, problem):
    schedule, data = PROBLEMS[problem]
    # the higher the order, the later the errors are asymptotic
    counts = {1: (24, 34, 48), 2: (48, 68, 96), 3: (48, 68, 96)}.get(order, (136, 192, 272))
    slack = 0.28 if order < 4 else 0.4
    check_slope(solver, order, counts, schedule, data, graded=True, slack=slack, **options)


def test_third_order_of_the_peers_is_of_second():
    """compat="diffusers": phi_3 for 2 phi_3 leaves half of the quadratic's curvature out."""
    options = {"graded": True, "compat": "diffusers"}
    check_slope("dpmpp_3m", 2, (48, 68, 96), LinearVP(), Mixture(), **options)


def test_cold_start_of_third_order_is_of_second():
    """The first step's error, h^2 / 2 times a derivative, stays."""
    for solver in ("dpmpp_3m", "deis"):
        options = {"order": 3} if solver == "deis" else {}
        options["starter"] = "lower"
        check_slope(solver, 2, (68, 96, 136), Rectified(), Gaussian(), slack=0.45, **options)


CORRECTED = [
    ("dpmpp_3m", {}),
    ("dpm_solver_3m", {}),
    ("res_3m", {}),
    ("deis", {"order": 3}),
    ("deis", {"order": 3, "variable": "log_rho"}),
    ("adams_bashforth", {"order": 3}),
    ("adams_bashforth", {"order": 4}),
]


@pytest.mark.parametrize(("solver", "options"), CORRECTED)
def test_corrected_start_is_of_third_order(solver, options):
    """On even grids, whose first step is as long as the others, where a cold start leaves 2."""
    schedule, data, counts = Rectified(), Gaussian(), (68, 96, 136)
    grids = [times_at(schedule, np.linspace(0, 1, n + 1)) for n in counts]
    corrected = measured(solver, schedule, data, grids, **options)
    lower = measured(solver, schedule, data, grids, starter="lower", **options)
    assert slope(counts, corrected) > 2.6, corrected
    assert slope(counts, lower) < 2.4, lower
    assert corrected[-1] < lower[-1] / 3


@pytest.mark.parametrize(
    "solver", ["dpmpp_3m", "dpm_solver_3m", "res_3m", "deis", "lms", "ipndm_v"]
)
@pytest.mark.parametrize("schedule", [Rectified(), CosineVP()], ids=["alpha = 0", "alpha small"])
def test_corrected_start_from_pure_noise(solver, schedule):
    """Polynomials in log-SNR have no node at alpha = 0: both first steps are corrected."""
    grid = np.linspace(schedule.t_max, 0.15, 21)
    lower, corrected = (
        measured(solver, schedule, Gaussian(), [grid], starter=starter)[0]
        for starter in ("lower", "corrected")
    )
    assert corrected < 0.75 * lower, (lower, corrected)


def test_corrected_start_makes_no_evaluation_more():
    for solver, options in CORRECTED:
        for starter in ("lower", "corrected"):
            plan = fastgen.plan(solver, Rectified(), 7, starter=starter, **options)
            assert plan.nfe == 7
            assert [s.time for s in plan.instructions if isinstance(s, State)] == list(
                plan.times[1:]
            )


def test_corrected_start_from_data_to_noise():
    """A run that is reversed averages noise predictions: the way back finds the data again."""
    schedule = LinearVP()
    model = fastgen.Model(lambda x, t: 0.7 * x, schedule, "noise", time_dtype=torch.float64)
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    gaps = []
    for starter in ("lower", "corrected"):
        plan = fastgen.plan("deis", schedule, 24, order=3, reverse=True, starter=starter)
        fine = fastgen.plan("deis", schedule, 1500, order=3, reverse=True)
        run = [fastgen.Sampler(model, p, dtype=torch.float64)(x) for p in (plan, fine)]
        gaps.append((run[0] - run[1]).abs().max().item())
    assert gaps[1] < gaps[0]


LOWER = {"starter": "lower"}


def test_identities():
    times = times_at(LinearVP(), np.array([0, 0.2, 0.3, 0.6, 0.8, 1.0]))
    for a, b in (
        (("unipc", {"order": 1, "corrector": False}), ("ddim", {})),
        (("unipc", {"order": 1, "corrector": False, "prediction": "noise"}), ("ddim", {})),
        (("unipc", {"corrector": False, "variant": "bh2"}), ("dpmpp_2m", {})),
        (("unipc", {"corrector": False, "variant": "vary_coeff"}), ("res_2m", {})),
        (("unipc", {"order": 3, "corrector": False, "variant": "bh2"}), ("dpmpp_3m", LOWER)),
        (("dpmpp_3m", {"solver_type": "heun"}), ("res_3m", {})),
        (
            ("deis", {"order": 2, "variable": "log_rho"}),
            ("dpm_solver_2m", {"solver_type": "heun", "starter": "corrected"}),
        ),
        (("deis", {"order": 1}), ("ddim", {})),
        (("ipndm", {"order": 1}), ("ddim", {})),
        (("ipndm", {"order": 2}), ("gradient_estimation", {"gamma": 1.5})),
        (("lms", {}), ("deis", {"order": 4, "variable": "rho"})),
        (("lms", {}), ("ipndm_v", {})),
    ):
        assert same(result(a[0], times, **a[1]), result(b[0], times, **b[1])), (a, b)


def test_b_h_cancels_where_the_system_is_square():
    """UniPC-3's predictor and corrector differ between variants through the start alone."""
    schedule, steps = LinearVP(), 8
    plans = [
        fastgen.plan("unipc", schedule, steps, order=3, corrector=False, variant=v, end=0.1)
        for v in ("bh1", "bh2", "vary_coeff")
    ]
    last = [list(p.instructions[-2].form.terms.values()) for p in plans]
    np.testing.assert_allclose(last[0], last[1], rtol=1e-12)
    np.testing.assert_allclose(last[0], last[2], rtol=1e-12)


def test_two_m_and_res_two_m_differ_by_the_second_moment():
    """phi_1 / 2 against phi_2: equal to first order in h, so their difference falls like h^2."""
    gaps = []
    for n in (20, 40, 80):
        times = times_at(LinearVP(), np.linspace(0, 1, n + 1))
        gaps.append((result("dpmpp_2m", times) - result("res_2m", times)).abs().max().item())
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.3)
    assert gaps[1] / gaps[2] == pytest.approx(4, rel=0.2)


def test_equal_steps_give_constant_coefficients():
    """lms and ipndm agree where sigma / alpha falls evenly."""
    times = LinearVP().time_at_ratio(np.linspace(3.0, 0.3, 9))
    assert same(result("lms", times, starter="lower"), result("ipndm", times), 1e-11)


@pytest.mark.parametrize(
    ("schedule", "s", "t"),
    [
        (LinearVP(), 0.5, 0.4),
        (LinearVP(), 0.05, 0.0),
        (CosineVP(), 0.7, 0.1),
        (DiscreteVP.linear(), 0.4005, 0.3),
        (DiscreteVP.linear(), 0.02, 0.0),
        (Rectified(), 0.9, 0.2),
    ],
)
def test_time_moments(schedule, s, t):
    """Against the trapezoid in r itself, on 131072 intervals with Richardson's correction."""

    def trapezoid(n):
        r = np.linspace(schedule.ratio(s), schedule.ratio(t), n + 1)
        tau = (schedule.time_at_ratio(np.clip(r, 0, schedule.ratio(1.0))) - s) / (t - s)
        powers = np.array([tau**k for k in range(4)])
        return (powers.sum(1) - (powers[:, 0] + powers[:, -1]) / 2) / n

    n = 2**16
    exact = trapezoid(2 * n) + (trapezoid(2 * n) - trapezoid(n)) / 3
    np.testing.assert_allclose(time_moments(schedule, s, t, 4), exact, rtol=1e-9)
    assert time_moments(Rectified(), 0.5, 0.0, 3) == pytest.approx(
        [1.0, 2 * np.log(2) - 1, 3 - 4 * np.log(2)], rel=1e-13
    )


@pytest.mark.parametrize("schedule", EVERY_SCHEDULE)
@pytest.mark.parametrize("solver", MULTISTEP)
def test_singular_ends_and_stages(solver, schedule):
    for steps, grid in ((1, "uniform"), (2, "karras"), (3, "uniform"), (7, "karras")):
        plan = check_limits(solver, SCHEDULES[schedule], steps, timesteps=grid)
        if solver not in ("pndm", "adams_bashforth_moulton"):
            assert plan.nfe == steps
    for options in {
        "unipc": [{"order": k, "prediction": p} for k in (1, 3, 5) for p in ("data", "noise")],
        "deis": [{"order": 4, "variable": v} for v in ("rho", "log_rho")],
        "pndm": [{"skip_prk": True}],
        "adams_bashforth_moulton": [{"order": 4, "mode": "PEC"}],
        "dpmpp_3m": [{"lower_order_final": True}],
    }.get(solver, []):
        for steps in (1, 7):
            check_limits(solver, SCHEDULES[schedule], steps, **options)


@pytest.mark.parametrize("solver", MULTISTEP)
def test_values_from_one_to_zero_on_rectified_flow(solver):
    # Adams-Moulton evaluates at t = 0, where the closed form is 0 / 0
    end = 0.01 if solver == "adams_bashforth_moulton" else 0.0
    (error,) = measured(solver, Rectified(), Gaussian(), [np.linspace(1, end, 41)])
    assert error < 0.1


def test_evaluations():
    for solver, options, nfe in (
        ("pndm", {}, 10 + 9),
        ("pndm", {"skip_prk": True}, 10 + 1),
        ("adams_bashforth_moulton", {"mode": "PECE"}, 20),
        ("adams_bashforth_moulton", {"mode": "PEC"}, 11),
        ("unipc", {"order": 3}, 10),
    ):
        assert fastgen.plan(solver, LinearVP(), 10, end=0.05, **options).nfe == nfe


def test_predictor_and_corrector_of_unipc_are_one_stage():
    """UniPC-2: reads the corrected state, its network input and three predictions, writes three."""
    plan = fastgen.plan("unipc", LinearVP(), 10, end=0.05, order=2)
    program = plan.lower(Parametrisation(LinearVP(), "data"))
    stage = program.stages[6]
    assert len(program.stages) == plan.nfe + 1
    assert len(stage.inputs) <= 5
    assert len([i for i in stage.inputs if not isinstance(i, Raw)]) <= 2
    assert len(stage.outputs) <= 3
    stage = plan.lower(Parametrisation(LinearVP(), "noise"), hold_outputs=False).stages[6]
    assert len(stage.inputs) <= 5
    assert len(stage.outputs) <= 3


@pytest.mark.parametrize(
    ("solver", "options", "message"),
    [
        ("unipc", {"order": 0}, "order=0"),
        ("unipc", {"variant": "bh3"}, "variant='bh3'"),
        ("deis", {"variable": "rhoo"}, "variable='rhoo'.*rho"),
        ("ipndm", {"order": 5}, "1 to 4"),
        ("dpmpp_3m", {"compat": "difusers"}, "compat='difusers'.*diffusers"),
        ("adams_bashforth_moulton", {"mode": "PECEE"}, "mode='PECEE'"),
    ],
)
def test_errors(solver, options, message):
    with pytest.raises(ValueError, match=message):
        fastgen.plan(solver, LinearVP(), 4, **options)
