"""Plans from files: every fault is one kind of error that names its place, in bounded time."""

import copy
import json
import math
import time
from itertools import pairwise

import pytest
import torch

import fastgen
from fastgen import schedules
from fastgen.model.parametrisation import Parametrisation
from fastgen.plans import Builder, Form, Plan
from fastgen.plans.forms import Evaluate, Let, Value

SCHEDULE = schedules.CosineVP()
PLAN = json.loads(fastgen.plan("dpmpp_2m", SCHEDULE, steps=4).to_json())
NOISY = json.loads(fastgen.plan("ddpm", SCHEDULE, steps=4).to_json())
LAST = max(k for k, record in enumerate(PLAN["program"]) if "let" in record)
EVALUATE = max(k for k, record in enumerate(PLAN["program"]) if "evaluate" in record)


def changed(*path, to, plan=PLAN):
    """The text of a plan in which the item at a path is another."""
    record = copy.deepcopy(plan)
    at = record
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = to
    return json.dumps(record)


def without(*path):
    record = copy.deepcopy(PLAN)
    at = record
    for key in path[:-1]:
        at = at[key]
    del at[path[-1]]
    return json.dumps(record)


def program(records, result):
    """The text of a plan of these instructions, and an evaluation at the end."""
    records = [*records, {"evaluate": 0, "time": 0.1, "until": None}]
    return json.dumps({**PLAN, "program": records, "result": result})


def sampled(text, x):
    """The result for a network that gives zero noise."""
    model = fastgen.Model(lambda x, t: torch.zeros_like(x), SCHEDULE, "noise")
    return fastgen.Sampler(model, Plan.from_json(text), dtype=torch.float64)(x)


COEFFICIENT = ("program", LAST, "terms", 0, 2)
TERMS = ("program", LAST, "terms")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (None, "expected text, got NoneType"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("9" * 10_000, "not JSON"),
        (json.dumps(PLAN)[:-40], "not JSON"),
        ('{"fastgen_plan": 1, "fastgen_plan": 1}', "'fastgen_plan' occurs twice"),
        ("[1]", "expected a plan of version 1"),
        (changed("fastgen_plan", to=2), "expected a plan of version 1"),
        (changed("fastgen_plan", to=True), "expected a plan of version 1"),
        (without("program"), "the plan: 'program' is missing"),
        (changed("steps", to=3), "the plan: unknown key 'steps'"),
        (changed("solver", to=3), "solver: expected a name, got 3"),
        (changed("options", to="x"), "options: expected an object, got 'x'"),
        (changed("schedule", to="CosineVP"), "schedule: expected an object"),
        (changed("schedule", to={"name": "Evil"}), "schedule: unknown schedule 'Evil'"),
        (changed("schedule", "s", to="x"), r"schedule: CosineVP: s = 'x'"),
        (
            changed("schedule", to={"name": "DiscreteVP", "constructor": "linear", "num": 10**12}),
            "schedule: num = 1000000000000 is not a positive integer up to",
        ),
        (changed("times", to=[]), "times: expected at least two"),
        (changed("times", to=[0.1, 0.9, 0.0]), "times: expected at least two, each below"),
        (changed("times", 1, to=math.nan), r"times\[1\]: expected a finite number from 0 to 1"),
        (changed("times", to=PLAN["times"][:2]), r"program\[5\].time: expected a time within"),
        (changed("clip", to=[1, -1]), "clip: expected a low bound below a high one"),
        (changed("clip", to=[1, 2, 3]), "clip: expected a list of 2 items"),
        (changed("clip", to=[math.nan, 1]), r"clip\[0\]: expected a finite number"),
        (changed("result", to=999), "result: x999 is no register"),
        (changed("result", to=-1), "result: expected a whole number from 0"),
        (changed("result", to=2**40), "result: expected a whole number from 0"),
        (changed("program", to="abc"), "program: expected a list, got 'abc'"),
        (changed("program", 0, to=[1]), r"program\[0\]: expected an object with one of let"),
        (changed("program", 0, to={"exec": "1"}), r"program\[0\]: expected an object with one"),
        (without("program", EVALUATE, "until"), rf"program\[{EVALUATE}\]: 'until' is missing"),
        (changed("program", EVALUATE, "time", to=7.0), rf"program\[{EVALUATE}\].time: expected"),
        (changed("program", EVALUATE, "until", to="x"), rf"program\[{EVALUATE}\].until: expected"),
        (changed("program", EVALUATE, "evaluate", to=777), f"instruction {EVALUATE}: x777 is read"),
        (changed(*COEFFICIENT, to="1.0"), rf"program\[{LAST}\].terms\[0\]\[2\]: expected a finite"),
        (changed(*COEFFICIENT, to=math.inf), rf"program\[{LAST}\].terms\[0\]\[2\]: expected"),
        (changed(*COEFFICIENT, to=10**400), rf"program\[{LAST}\].terms\[0\]\[2\]: expected"),
        (changed(*COEFFICIENT, to=True), rf"program\[{LAST}\].terms\[0\]\[2\]: expected"),
        (changed(*TERMS, to=[]), f"instruction {LAST}: x4 is a sum without terms"),
        (changed(*TERMS, to=[["Value", [4], 1.0]]), f"instruction {LAST}: x4 is read before"),
        (changed(*TERMS, to=[["Value", [0], 1.0]] * 2), "the same symbol twice"),
        (changed(*TERMS, to=[["os.system", ["id"], 1.0]]), "expected one of Value, Prediction"),
        (changed(*TERMS, to=[["Value", [], 1.0]]), "expected a list of 1 items"),
        (changed(*TERMS, to=[["Prediction", [9, "data"], 1.0]]), "data9 is of evaluation 9, of"),
        (changed(*TERMS, to=[["Prediction", [0, "evil"], 1.0]]), "evil0 is of an unknown quantity"),
        (changed(*TERMS, to=[["Prediction", [0, "data", 1], 1.0]]), "expected true or false"),
        (changed(*TERMS, to=[["Normal", [0, 0.5, 0.4], 1.0]]), "expected a whole number from 1"),
        (changed(*TERMS, to=[["Normal", [2**32, 0.5, 0.4], 1.0]]), "expected a whole number"),
        (
            changed(*TERMS, to=[["Normal", [1, 0.5, 0.4], 1.0], ["Normal", [1, 0.5, 0.3], 1.0]]),
            "z1 is draw 1, which z1 of another interval or kind is too",
        ),
        (changed(*TERMS, to=[["Computed", [0, "evil", 1, [1.0]], 1.0]]), "of an unknown kind"),
        (changed(*TERMS, to=[["Computed", [0, "langevin", 1, []], 1.0]]), "has the numbers"),
        (program([*PLAN["program"], PLAN["program"][LAST]], 0), "x4 is written a second time"),
        (program([{"evaluate": 0, "time": 0.5, "until": None}] * 100_000, 0), "100001 evaluations"),
        (changed("program", to=[]), "the network is evaluated nowhere"),
    ],
)
def test_what_is_no_plan_is_refused_with_its_place(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        Plan.from_json(text)
    assert str(caught.value).startswith("text: ")


def test_infinite_bounds_of_the_clip_survive():
    plan = fastgen.plan("ddim", SCHEDULE, steps=2, clip=(-math.inf, 1))
    assert Plan.from_json(plan.to_json()).clip == (-math.inf, 1)


def fibonacci(count):
    """Registers x1 = x2 = x0 and each further one the sum of the two before."""
    one = [["Value", [0], 1.0]]
    records = [{"let": 1, "terms": one}, {"let": 2, "terms": one}]
    for k in range(3, count + 1):
        records.append({"let": k, "terms": [["Value", [k - 1], 1.0], ["Value", [k - 2], 1.0]]})
    return records


def test_registers_that_share_others_are_expanded_once():
    records = [*fibonacci(70), {"evaluate": 70, "time": 0.5, "until": None}]
    x = torch.tensor([[1.0, -3.0]], dtype=torch.float64)
    start = time.process_time()
    found = sampled(program(records, 70), x)
    assert time.process_time() - start < 2
    assert found.tolist() == [[190392490709135.0, -571177472127405.0]]  # F(70), below 2^53


def test_a_solver_of_the_same_kind():
    p = Builder(SCHEDULE)
    a = b = p.initial()
    for _ in range(68):
        a, b = b, p.let(a + b)
    p.predict(b, 0.5)
    plan = Plan(
        "fibonacci", {}, SCHEDULE, torch.tensor([1.0, 0.0]).numpy(), tuple(p.instructions),
        next(iter(b.terms)),
    )  # fmt: skip
    first = plan.lower(Parametrisation(SCHEDULE, "noise")).stages[0]
    assert first is not None
    assert first.table.tolist() == [[190392490709135.0]]  # F(70)


def test_long_chains_and_sums_are_bounded():
    chain = [{"let": k + 1, "terms": [["Value", [k], 1.0]]} for k in range(10_000)]
    x = torch.ones(1, 2, dtype=torch.float64)
    assert sampled(program(chain, 10_000), x).equal(x)
    doubled = [{"let": k + 1, "terms": [["Value", [k], 2.0]]} for k in range(10_000)]
    with pytest.raises(ValueError, match="stage 0 has a coefficient that is not finite"):
        sampled(program(doubled, 10_000), x)
    noises = [
        {"let": k, "terms": [["Value", [k - 1], 1.0], ["Normal", [k, 0.5, 0.4], 1.0]]}
        for k in range(1, 5000)
    ]
    with pytest.raises(ValueError, match="stage 0 has a sum of 257 values"):
        sampled(program(noises, 4999), x)


def test_outputs_kept_by_the_thousand_are_refused():
    records = [{"evaluate": 0, "time": 1 - k / 4000, "until": None} for k in range(2000)]
    for k in range(2000):
        terms = [["Value", [k], 1.0], ["Prediction", [1999 - k, "noise"], 1.0]]
        records += [{"let": k + 1, "terms": terms}, {"evaluate": k + 1, "time": 0.2, "until": None}]
    with pytest.raises(ValueError, match="keeps over 256 outputs of the network"):
        sampled(program(records, 2000), torch.ones(1, 2, dtype=torch.float64))


def test_a_file_of_a_megabyte_is_read_within_a_second():
    one = [["Value", [0], 0.5], ["Prediction", [0, "data", False], 0.25]]
    records = [{"evaluate": 0, "time": 0.5, "until": None}]
    records += [{"let": k, "terms": one} for k in range(1, 11_500)]
    text = program(records, 11_499)
    assert len(text) > 1_000_000
    seconds = []
    for _ in range(3):
        start = time.process_time()
        Plan.from_json(text)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        ((Evaluate(Value(3), 0.5),), "instruction 0: x3 is read before it is written"),
        ((Let(Value(1), Form({Value(0): math.inf})),), "instruction 0: x0 has the coefficient inf"),
        ((Let(Value(0), Form({Value(0): 1.0})),), "instruction 0: x0 is written a second time"),
    ],
)
def test_plans_made_by_hand_are_checked_alike(instructions, message):
    with pytest.raises(ValueError, match=message):
        Plan("own", {}, SCHEDULE, torch.tensor([1.0, 0.0]).numpy(), instructions, Value(0))


def test_files_of_every_kind_of_plan_are_read():
    for plan in (PLAN, NOISY):
        assert json.loads(Plan.from_json(json.dumps(plan)).to_json()) == plan
    learned = fastgen.plan("ddpm", SCHEDULE, steps=3, variance="learned")
    assert Plan.from_json(learned.to_json()).to_json() == learned.to_json()
    states = Plan.from_json(json.dumps(NOISY)).states
    assert all(a.time > b.time for a, b in pairwise(states))


def test_a_clipped_plan_of_average_velocities_is_refused_with_the_remedy():
    plan = fastgen.plan("mean_flow", schedules.Rectified(), steps=2, clip=(-1, 1))
    model = fastgen.Model(lambda x, t, s: x, plan.schedule, "average_velocity")
    with pytest.raises(ValueError, match="average_velocity: data at one time do not determine it"):
        fastgen.Sampler(model, Plan.from_json(plan.to_json()))
