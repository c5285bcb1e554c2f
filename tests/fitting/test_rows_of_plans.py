"""Any plan as rows over its history, and back: the same samples, consistent, and to autograd."""

import numpy as np
import pytest
import torch

import fastgen
from fastgen import schedules
from fastgen.fitting.moving import Moving, Replanned
from fastgen.fitting.rows import Rows
from tests.support.mixtures import Mixture

OTHER_MODELS = ("bridge_sde", "consistency")
# They read the initial state anew, or an unguided branch.
WITHOUT_ROWS = ("ddim_cfgpp",)
ODE = [n for n in fastgen.solvers.names(stochastic=False, two_times=False) if n not in OTHER_MODELS]


def model_of(schedule, predicts="data"):
    return fastgen.Model(Mixture(schedule, predicts), schedule, predicts, time_dtype=torch.float64)


@pytest.mark.parametrize("solver", [n for n in ODE if n not in WITHOUT_ROWS])
@pytest.mark.parametrize(
    ("schedule", "predicts"),
    [(schedules.LinearVP(), "noise"), (schedules.Rectified(), "velocity")],
    ids=["noise", "velocity"],
)
def test_rows_give_the_samples_of_their_plan(solver, schedule, predicts):
    model = model_of(schedule, predicts)
    plan = fastgen.plan(solver, schedule, 3, start=0.9, end=0.1, predicts=predicts)
    rows = Rows.of(plan, model.parametrisation)
    again = rows.to_plan()
    assert again.nfe == plan.nfe
    x = fastgen.randn((5, 2), seed=2, dtype=torch.float64)
    given, found = (fastgen.Sampler(model, p, dtype=torch.float64)(x) for p in (plan, again))
    torch.testing.assert_close(found, given, rtol=1e-9, atol=1e-10)
    # Where all data are one point exponential solvers are exact, on straight paths all are.
    exponential = "velocity" not in str(plan)
    if exponential or predicts == "velocity":
        assert max(rows.consistency()) < 1e-9
    else:
        assert max(rows.consistency()) > 1e-4
    states = [state.time for state in again.states]
    assert states == [t for t in plan.times.tolist()[1:] if t in states]
    assert states[-1] == 0.1


@pytest.mark.parametrize(
    ("solver", "options"),
    [("ddim", {"eta": 0.7}), ("ddpm", {}), ("dpmpp_2m_sde", {}), ("euler_ancestral", {})],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_rows_keep_the_noise_of_their_plan(solver, options):
    schedule = schedules.CosineVP()
    model = model_of(schedule)
    plan = fastgen.plan(solver, schedule, 5, **options)
    again = Rows.of(plan, model.parametrisation).to_plan()
    given, found = (
        fastgen.Sampler(model, p, dtype=torch.float64)((6, 2), seed=3) for p in (plan, again)
    )
    torch.testing.assert_close(found, given, rtol=1e-9, atol=1e-10)
    assert again.draws == plan.draws


@pytest.mark.parametrize(
    ("solver", "options"),
    [("ddim_cfgpp", {}), ("ddpm", {"variance": "learned"})],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_has_no_rows_is_named(solver, options):
    schedule = schedules.LinearVP()
    plan = fastgen.plan(solver, schedule, 3, **options)
    with pytest.raises(ValueError, match="not linear in the guided output"):
        Rows.of(plan, model_of(schedule).parametrisation)


def test_rows_of_a_clipped_plan_read_the_clipped_data():
    schedule = schedules.LinearVP()
    model = model_of(schedule, "noise")
    plan = fastgen.plan("dpmpp_2m", schedule, 4, clip=(-0.5, 0.5))
    rows = Rows.of(plan, model.parametrisation)
    assert rows.quantity == "data"
    x = fastgen.randn((5, 2), seed=2, dtype=torch.float64)
    given, found = (
        fastgen.Sampler(model, p, dtype=torch.float64)(x) for p in (plan, rows.to_plan())
    )
    torch.testing.assert_close(found, given, rtol=1e-9, atol=1e-10)


def test_a_note_survives_the_file_and_is_shown():
    schedule = schedules.CosineVP()
    rows = Rows.of(fastgen.plan("unipc", schedule, 4), model_of(schedule).parametrisation)
    plan = rows.to_plan("fitted, as a test")
    again = fastgen.Plan.from_json(plan.to_json())
    assert str(again) == str(plan)
    assert "fitted, as a test" in str(again)
    assert "note" not in fastgen.plan("unipc", schedule, 4).to_json()
    with pytest.raises(ValueError, match="note: expected text"):
        fastgen.Plan.from_json(plan.to_json().replace('"fitted, as a test"', "3"))


def test_euler_rows_move_with_their_grid_as_the_formula_says():
    schedule = schedules.Rectified()
    parametrisation = model_of(schedule, "velocity").parametrisation
    plan = fastgen.plan("euler", schedule, timesteps=[1.0, 0.7, 0.3, 0.0])
    found = Replanned(plan, parametrisation).jacobian(plan.times)
    # x_{k+1} = x_k + (t_{k+1} - t_k) u_k: times t_0 .. t_3, then (1, h_0), (1, 0, h_1) ...
    expected = np.zeros_like(found)
    expected[1, 0] = expected[2, 1] = 1
    expected[5, 0], expected[8, 0], expected[8, 1], expected[12, 1] = 1, -1, 1, -1
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_what_has_not_moved_is_what_it_was():
    schedule = schedules.LinearVP()
    parametrisation = model_of(schedule).parametrisation
    plan = fastgen.plan("midpoint", schedule, 3)
    rows = Rows.of(plan, parametrisation)
    directions = [torch.eye(k + 2, dtype=torch.float64) for k in range(rows.nfe)]
    moving = Moving(rows, rows, Replanned(plan, parametrisation), directions, "both")
    again = moving.to_rows()
    np.testing.assert_allclose(again.times, rows.times, atol=1e-15)
    for own, given in zip(again.rows, rows.rows, strict=True):
        np.testing.assert_allclose(own.coefficients, given.coefficients, rtol=1e-9, atol=1e-12)
    assert again.plan.times[0] == plan.times[0]
    assert again.plan.times[-1] == 0
