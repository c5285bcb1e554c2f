"""Plans that cannot be made say why: what adds noise run backwards, limits, odd options."""

import pytest

import fastgen
from fastgen import schedules

STOCHASTIC = [n for n in fastgen.solvers.names() if fastgen.solvers.get(n).stochastic]
PLAIN = [n for n in fastgen.solvers.names() if n not in STOCHASTIC]


@pytest.mark.parametrize("solver", fastgen.solvers.names())
@pytest.mark.parametrize("schedule", [schedules.CosineVP(), schedules.Rectified(), schedules.VE()])
@pytest.mark.parametrize("end", [0.0, 0.01])
def test_from_data_to_noise(solver, schedule, end):
    try:
        plan = fastgen.plan(solver, schedule, 4, reverse=True, end=end)
    except ValueError as error:
        message = str(error)
    else:
        assert plan.times[0] == end
        return
    assert message.startswith("reverse=True: ")
    assert repr(solver) in message
    if solver in STOCHASTIC:
        assert "adds noise" in message
        assert "take a solver that draws none" in message
    else:
        assert "pass end=" in message or "start=" in message
    inner = {"start": 0.9, "end": 0.05}
    if solver in PLAIN:
        fastgen.plan(solver, schedule, 4, reverse=True, **inner)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "much", None, [1.0, None]])
def test_an_option_that_is_no_number_is_named(value):
    with pytest.raises((TypeError, ValueError), match=r"eta(=.*'ddim'|: expected a number)"):
        fastgen.plan("ddim", schedules.CosineVP(), 4, eta=value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reverse": "yes"}, TypeError, "reverse='yes'"),
        ({"start": "late"}, TypeError, "start: expected a number, got 'late'"),
        ({"end": None}, TypeError, "end: expected a number"),
        ({"start": float("nan")}, ValueError, "start = nan"),
        ({"clip": 1.0}, TypeError, "clip=1.0: expected two numbers"),
        ({"clip": (1.0, -1.0)}, ValueError, "clip="),
        ({"clip": (None, 1.0)}, TypeError, "clip: expected a number"),
        ({"predicts": "epsilon"}, ValueError, "did you mean 'noise'"),
        ({"timesteps": ["a", "b"]}, TypeError, "timesteps=.*expected a grid's name"),
        ({"timesteps": 3.5}, ValueError, "explicit times have shape"),
        ({"timesteps": "karras", "rho": "seven"}, TypeError, "rho: expected a number"),
        ({"num_steps": 3}, TypeError, "did you mean 'steps'"),
        ({"steps": 2.5}, ValueError, "steps = 2.5"),
    ],
)
def test_arguments_of_plan(options, error, message):
    options = {"steps": 4} | options
    with pytest.raises(error, match=message):
        fastgen.plan("ddim", schedules.LinearVP(), **options)


def test_solvers_are_names():
    for solver in (None, ["ddim"], 3):
        with pytest.raises(ValueError, match="solver="):
            fastgen.plan(solver, schedules.LinearVP(), 4)
