"""`solver="auto"`: the best by the kept rows, said in the plan."""

import pytest
import torch

import fastgen
from fastgen import schedules
from fastgen.cli import main
from fastgen.solvers import measured
from fastgen.timesteps import times

TABLES = [
    (schedules.LinearVP(), "noise", measured.NOISES),
    (schedules.CosineVP(), "v", measured.VARIANCE_PRESERVING),
    (schedules.EDM(), "edm", measured.OTHERS),
    (schedules.Rectified(), "velocity", measured.VELOCITIES),
]


@pytest.mark.parametrize(
    ("schedule", "predicts", "table"), TABLES, ids=["noise", "v", "edm", "flow"]
)
def test_it_is_the_tables_solver_on_the_tables_grid(schedule, predicts, table):
    for nfe, (solver, grid, _) in table.items():
        plan = fastgen.plan("auto", schedule, nfe, predicts=predicts)
        expected = fastgen.plan(solver, schedule, nfe, timesteps=grid, predicts=predicts)
        assert (plan.solver, plan.nfe) == (solver, nfe)
        assert plan.instructions == expected.instructions
        assert plan.note.startswith(f"chosen by solver='auto' for {nfe} evaluations: {solver} on ")
        assert plan.note in str(plan)
    for between in (1, 7, 13, 1000):
        assert fastgen.plan("auto", schedule, between, predicts=predicts).nfe == between


def test_given_times_and_options_are_kept():
    schedule = schedules.LinearVP()
    plan = fastgen.plan("auto", schedule, 5, timesteps="karras", clip=(-1, 1), start=0.9, end=0.1)
    assert plan.times.tolist() == times("karras", schedule, 5, start=0.9, end=0.1).tolist()
    assert plan.clip == (-1, 1)
    assert fastgen.plan("auto", schedule, timesteps=[1.0, 0.5, 0.2, 0.0]).nfe == 3


def test_sampling_is_with_that_plan():
    schedule = schedules.CosineVP()
    model = fastgen.Model(lambda x, t: x.tanh(), schedule, "data")
    plan = fastgen.plan("auto", schedule, 6, predicts="data", clip=(-1, 1))
    found = fastgen.sample(model, (3, 4), "auto", 6, seed=2, clip=(-1, 1))
    assert torch.equal(found, fastgen.Sampler(model, plan)((3, 4), seed=2))
    assert fastgen.Plan.from_json(plan.to_json()).note == plan.note


def test_it_is_what_sample_takes():
    model = fastgen.Model(lambda x, t: x.tanh(), schedules.CosineVP(), "v")
    chosen = fastgen.plan("auto", model.schedule, 6, predicts="v")
    found = fastgen.sample(model, (3, 4), steps=6, seed=2)
    assert torch.equal(found, fastgen.Sampler(model, chosen)((3, 4), seed=2))
    with pytest.raises(ValueError, match='steps=None: solver="auto"'):
        fastgen.sample(model, (3, 4))


def test_networks_with_solvers_of_their_own():
    schedule = schedules.Rectified()
    averages = fastgen.Model(lambda x, t, s: -x, schedule, "average_velocity")
    direct = fastgen.sample(averages, (3, 4), "mean_flow", 2, seed=1)
    assert torch.equal(fastgen.sample(averages, (3, 4), steps=2, seed=1), direct)
    pair = fastgen.Model(lambda x, t: (-x, -x), schedule, "velocity_and_score")
    direct = fastgen.sample(pair, (3, 4), "adams_bashforth", 5, seed=1)
    assert torch.equal(fastgen.sample(pair, (3, 4), steps=5, seed=1), direct)


def test_the_command_line_knows_it(capsys):
    assert main(["plan", "auto", "--steps", "5", "--schedule", "LinearVP"]) == 0
    assert "chosen by solver='auto'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, 'steps=None: solver="auto"'),
        ({"steps": 0}, "steps=0"),
        ({"steps": True}, "steps=True"),
        ({"steps": 4, "predicts": "nois"}, "predicts"),
    ],
    ids=["none", "zero", "bool", "unknown"],
)
def test_what_cannot_be_chosen_for_is_named(given, says):
    with pytest.raises(ValueError, match=says):
        fastgen.plan("auto", schedules.LinearVP(), **given)


def test_an_unknown_option_is_named():
    with pytest.raises(TypeError, match="unknown option 'rhoo'"):
        fastgen.plan("auto", schedules.LinearVP(), 5, timesteps="karras", rhoo=3)
