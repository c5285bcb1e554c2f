"""Any program, lowered and run by the kernels, equals its direct evaluation in float64."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastgen
from fastgen import schedules
from fastgen.kernels import Stream
from fastgen.model.parametrisation import Parametrisation
from fastgen.noise import randn
from fastgen.plans import Builder, Form, Plan
from fastgen.plans.forms import Evaluate, Let, Normal, Prediction, Value

SCHEDULE = schedules.LinearVP()


def network(x, t):
    shape = (-1, *[1] * (x.ndim - 1))
    return torch.tanh(1.3 * x + 0.2) * (1 + t.reshape(shape)) - 0.4 * x


def evaluate_directly(plan, model, x, seed):
    """The program as written, one instruction at a time, without lowering."""
    values, outputs = {Value(0): x}, []
    parametrisation = model.parametrisation

    def data(k, e):
        p, q = parametrisation.conversion("data", e.time)
        d = p * values[e.x] + q * outputs[k]
        return d if plan.clip is None else d.clamp(*plan.clip)

    def term(symbol):
        if isinstance(symbol, Value):
            return values[symbol]
        if isinstance(symbol, Normal):
            return randn(x.shape, seed=seed, draw=symbol.draw, stream=Stream.SOLVER, dtype=x.dtype)
        assert isinstance(symbol, Prediction)
        k, e = symbol.evaluation, plan.evaluations[symbol.evaluation]
        if plan.clip is not None:
            p, q = parametrisation.from_data(symbol.quantity, e.time)
            return p * values[e.x] + q * data(k, e)
        p, q = parametrisation.conversion(symbol.quantity, e.time)
        return p * values[e.x] + q * outputs[k]

    for i in plan.instructions:
        if isinstance(i, Evaluate):
            scale = parametrisation.input_scale(i.time)
            (times,) = model.times([i], x.shape[0], x.device)
            outputs.append(model.net(scale * values[i.x], *times))
        elif isinstance(i, Let):
            values[i.value] = sum(c * term(s) for s, c in i.form.terms.items())
    return values[plan.result]


coefficients = st.floats(-1.5, 1.5).filter(lambda c: abs(c) > 1e-3)


@st.composite
def plans(draw):
    """Programs of no particular meaning: sums of anything that is known, evaluated anywhere."""
    p = Builder(SCHEDULE)
    known = [p.initial()]
    times = sorted(draw(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=5)), reverse=True)
    for t in times:
        for _ in range(draw(st.integers(0, 2))):
            count = draw(st.integers(1, min(3, len(known))))
            chosen = draw(st.permutations(known))[:count]
            form = sum((draw(coefficients) * f for f in chosen), Form({}))
            if draw(st.booleans()):
                form = form + draw(coefficients) * p.noise(t, t / 2)
            if form.terms:
                known.append(p.let(form) if draw(st.booleans()) else p.state(form, t))
        registers = [k for k in known if all(isinstance(s, Value) for s in k.terms)]
        predicted = p.predict(draw(st.sampled_from(registers)), t)
        for quantity in draw(
            st.lists(st.sampled_from(["data", "noise", "velocity", "v", "score"]), max_size=3)
        ):
            known.append(getattr(predicted, quantity))
    result = sum((draw(coefficients) * f for f in known[-4:]), Form({})) + 0.5 * known[0]
    result = result if result.terms else known[0]
    result = p.state(result, 0.0)
    clip = draw(st.sampled_from([None, (-0.5, 0.7)]))
    return Plan(
        solver="random",
        options={},
        schedule=SCHEDULE,
        times=np.array([1.0, 0.0]),
        instructions=tuple(p.instructions),
        result=next(iter(result.terms)),
        clip=clip,
    )


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    plan=plans(),
    predicts=st.sampled_from(["data", "noise", "velocity", "v", "score", "edm"]),
    reuses_output=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
)
def test_lowered_plan_equals_the_program(
    backend, poisoned_memory, plan, predicts, reuses_output, seed
):
    model = fastgen.Model(
        network, SCHEDULE, predicts, time_dtype=torch.float64, reuses_output=reuses_output
    )
    x = randn((3, 5), seed=1, dtype=torch.float64)
    expected = evaluate_directly(plan, model, x, seed)
    scale = 1 + expected.abs().max()
    sampler = fastgen.Sampler(model, plan, dtype=torch.float64, backend=backend)
    for _ in range(2):  # the second run uses the first one's buffers
        result, states = sampler(x, seed=seed, trajectory=True)
        torch.testing.assert_close(result / scale, expected / scale, rtol=0, atol=1e-12)
        torch.testing.assert_close(states[-1], result, rtol=0, atol=0)
    recorded = sampler(x, seed=seed, differentiable=True)
    torch.testing.assert_close(recorded / scale, expected / scale, rtol=0, atol=1e-12)


def rate(t):
    return 0.7 * t


def test_json_names_options_that_are_functions():
    """What they gave is in the program."""
    plan = fastgen.plan(
        "sa_solver", fastgen.schedules.LinearVP(), 6, tau=rate, tau_interval=(0.2, 0.8)
    )
    again = Plan.from_json(plan.to_json())
    assert again.draws == plan.draws > 0
    assert again.options["tau"].endswith("test_plans.rate")
    assert again.to_json() == plan.to_json()


@given(plan=plans())
def test_json_round_trip_is_exact(plan):
    again = Plan.from_json(plan.to_json())
    assert again.to_json() == plan.to_json()
    assert len(again.instructions) == len(plan.instructions)
    for a, b in zip(again.instructions, plan.instructions, strict=True):
        if isinstance(a, Let):
            assert a.value == b.value
            assert a.form.terms == b.form.terms
        else:
            assert a == b
    assert (again.result, again.clip, again.schedule) == (plan.result, plan.clip, plan.schedule)


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"fastgen_plan": 2})])
def test_json_that_is_no_plan_is_refused(text):
    with pytest.raises(ValueError, match="text: "):
        Plan.from_json(text)


def test_canonical_form_reproduces_the_sample():
    plan = fastgen.plan("ddim", SCHEDULE, steps=6, eta=0.7)
    a, b, c, quantities, times = plan.canonical()
    assert quantities == ("data",) * 6
    model = fastgen.Model(network, SCHEDULE, "data", time_dtype=torch.float64)
    x = randn((4, 3), seed=2, dtype=torch.float64)
    expected = fastgen.Sampler(model, plan, dtype=torch.float64)(x, seed=5)
    draws = [
        randn(x.shape, seed=5, draw=k + 1, stream=Stream.SOLVER, dtype=torch.float64)
        for k in range(plan.draws)
    ]
    outputs = []
    for k in range(plan.nfe + 1):
        point = a[k] * x + sum(b[k, j] * u for j, u in enumerate(outputs))
        point = point + sum(c[k, j] * z for j, z in enumerate(draws))
        if k < plan.nfe:
            outputs.append(network(point, torch.full((4,), times[k], dtype=torch.float64)))
    torch.testing.assert_close(point, expected, rtol=0, atol=1e-13)


def test_canonical_refuses_clipping_and_mixed_quantities():
    with pytest.raises(ValueError, match="clips"):
        fastgen.plan("ddim", SCHEDULE, steps=2, clip=(-1, 1)).canonical()
    p = Builder(SCHEDULE)
    u = p.predict(p.initial(), 0.5)
    result = p.let(u.data + u.noise)
    plan = Plan(
        "mixed", {}, SCHEDULE, np.array([0.5, 0.0]), tuple(p.instructions), next(iter(result.terms))
    )
    with pytest.raises(ValueError, match="evaluation 0 enters as noise and as data"):
        plan.canonical()


@pytest.mark.parametrize(
    ("solver", "predicts", "network_bytes", "per_step"),
    [
        ("ddim", "data", 4, 12),  # read x and D, write x
        ("ddim", "noise", 4, 12),
        ("ddim", "noise", 2, 4 + 2 + 4 + 2),  # and write the next input in 16 bits
        ("ddpm", "noise", 4, 12),  # noise moves no bytes
        ("dpmpp_2m", "data", 4, 16),  # the last output is read again, not copied
        ("dpmpp_2m", "noise", 4, 20),  # the last data prediction is written once, read once
        ("heun", "velocity", 4, 2 * 14),
        ("adams_bashforth", "velocity", 4, 16),
    ],
)
def test_stages_move_no_more_than_they_must(solver, predicts, network_bytes, per_step):
    schedule = schedules.Rectified()
    few, many = (
        fastgen.plan(solver, schedule, steps=n, start=0.9, end=0.1).bytes_per_element(
            network_bytes=network_bytes, predicts=predicts
        )
        for n in (10, 20)
    )
    assert many - few == 10 * per_step


def parametrisation_for(solver):
    two_times = fastgen.solvers.get(solver).two_times
    return Parametrisation(SCHEDULE, "average_velocity" if two_times else "noise")


def test_buffers_do_not_grow_with_the_number_of_steps():
    # On even grids some coefficients of a corrected start cancel, but for rounding.
    for name in fastgen.solvers.names():
        parametrisation = parametrisation_for(name)
        counts = {
            len(
                fastgen.plan(name, SCHEDULE, steps=n, start=0.9, timesteps="log_snr", end=0.01)
                .lower(parametrisation)
                .network_buffers
            )
            for n in (8, 16, 32)
        }
        assert len(counts) == 1, name


def test_every_stage_is_one_kernel_call_per_evaluation():
    for name in fastgen.solvers.names():
        plan = fastgen.plan(name, SCHEDULE, steps=5, start=0.9)
        program = plan.lower(parametrisation_for(name))
        assert len(program.calls) == plan.nfe
        assert len(program.stages) == plan.nfe + 1
        assert program.stages[0] is None


def test_printed_plan_shows_program_and_counts():
    text = str(fastgen.plan("dpmpp_2m", schedules.Rectified(), steps=3))
    assert "3 steps, 3 evaluations, 0 noises" in text
    assert "evaluation 2 at x2" in text
    assert text.splitlines()[-1].strip() == "return x3"
    assert "data1" in text.splitlines()[5]


def test_equal_forms_share_a_register_and_an_evaluation():
    p = Builder(SCHEDULE)
    x = p.initial()
    u = p.velocity(x, 0.5)
    first, second = p.let(x - 0.1 * u), p.let(x - 0.1 * u)
    p.denoise(first, 0.4)
    p.velocity(second, 0.4)
    assert first.terms == second.terms
    assert sum(isinstance(i, Evaluate) for i in p.instructions) == 2


def test_forms_refuse_what_is_not_linear_or_not_finite():
    p = Builder(SCHEDULE)
    x = p.initial()
    with pytest.raises(TypeError, match="not linear"):
        x * x
    with pytest.raises(TypeError, match="forms only"):
        x + 1.0
    with pytest.raises(ValueError, match="limit is missing"):
        math.inf * x
    with pytest.raises(ValueError, match="without terms"):
        p.let(x - x)
    with pytest.raises(ValueError, match="not finite"):
        p.let(Form({Value(0): math.nan}))
