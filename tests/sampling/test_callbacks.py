"""Callbacks that write to the state: every solver goes on from what they wrote, in every dtype."""

from types import SimpleNamespace

import pytest
import torch

import fastgen
from fastgen import schedules, solvers
from fastgen.kernels import Stream
from fastgen.model.parametrisation import Parametrisation
from fastgen.plans import Plan
from fastgen.plans.forms import Evaluate, Let, Normal, Prediction, State, Value

SCHEDULE = schedules.LinearVP()
SHAPE = (3, 4)
X = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
WRITTEN = torch.linspace(-2, 2, 12).reshape(SHAPE)


def network(x, t, *_):
    return 0.5 * x + t.reshape(-1, 1).to(x.dtype)


def prediction(solver):
    return "average_velocity" if solvers.get(solver).two_times else "noise"


def plan_of(solver, **options):
    return fastgen.plan(solver, SCHEDULE, 4, **{"start": 0.9, "end": 0.1, **options})


def run(plan, index, dtype=None, state=torch.float32, how=torch.Tensor.copy_, **options):
    model = fastgen.Model(network, SCHEDULE, prediction(plan.solver), dtype=dtype)
    made = {k: options.pop(k) for k in ("noise", "guidance", "transform") if k in options}

    def write(step):
        if step.index == index:
            how(step.state, WRITTEN.to(state))

    sampler = fastgen.Sampler(model, plan, dtype=state, **made)
    return sampler(X.to(state), seed=5, callback=write, **options)


def by_definition(plan: Plan, index: int, dtype=torch.float64):
    """The plan's instructions one after another in float64, with the state replaced."""
    parametrisation = Parametrisation(SCHEDULE, prediction(plan.solver))
    registers, calls = {Value(0): X.double()}, []
    seen = 0

    def value(symbol):
        if isinstance(symbol, Value):
            return registers[symbol]
        if isinstance(symbol, Normal):
            stream = Stream.SOLVER
            return fastgen.randn(SHAPE, seed=5, draw=symbol.draw, stream=stream).double()
        assert isinstance(symbol, Prediction)
        call = calls[symbol.evaluation]
        p, q = parametrisation.conversion(symbol.quantity, call.time)
        return p * call.x + q * call.output

    for i in plan.instructions:
        if isinstance(i, Let):
            registers[i.value] = sum(c * value(s) for s, c in i.form.terms.items())
        elif isinstance(i, Evaluate):
            x, t = registers[i.x], torch.full(SHAPE[:1], i.time)
            output = network((x * parametrisation.input_scale(i.time)).to(dtype), t).double()
            calls.append(SimpleNamespace(x=x, time=i.time, output=output))
        elif isinstance(i, State):
            if seen == index:
                registers[i.value] = WRITTEN.double()
            seen += 1
    return registers[plan.result]


@pytest.mark.parametrize("solver", solvers.names())
@pytest.mark.parametrize("index", [0, 2])
def test_every_solver(solver, index):
    plan = plan_of(solver)
    expected = by_definition(plan, index)
    for state, limit in ((torch.float64, 1e-6), (torch.float32, 1e-4)):
        found = run(plan, index, state=state)
        torch.testing.assert_close(found.double(), expected, rtol=limit, atol=limit)
    half = by_definition(plan, index, torch.bfloat16)
    scale = expected.abs().max().item()
    torch.testing.assert_close(
        run(plan, index, torch.bfloat16).double(), half, rtol=0, atol=0.03 * scale
    )


@pytest.mark.parametrize("solver", ["ddim", "heun", "euler", "midpoint", "dpmpp_2s"])
def test_steps_without_history_start_anew(solver):
    if solver not in solvers.names():
        pytest.skip("no such solver")
    plan = plan_of(solver)
    rest = fastgen.plan(solver, SCHEDULE, timesteps=plan.times[2:].tolist())
    model = fastgen.Model(network, SCHEDULE, "noise")
    expected = fastgen.Sampler(model, rest)(WRITTEN)
    torch.testing.assert_close(run(plan, 1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc", "ddpm", "heun"])
@pytest.mark.parametrize(
    "options",
    [
        {"noise": "brownian"},
        {"transform": lambda data, t: data},
        {"guidance": fastgen.Guidance(torch.ones(3) * 1.0)},
        {"differentiable": True},
        {"differentiable": True, "checkpoint": True},
        {"trajectory": True},
    ],
    ids=["brownian", "transform", "guidance", "recorded", "checkpoint", "trajectory"],
)
def test_other_kinds_of_run(solver, options):
    """A no-op of each kind goes on like the plain run; a path has noise of its own."""
    plan = plan_of(solver)
    expected = run(plan, 1)
    if options == {"noise": "brownian"}:
        other = run(plan, 1, torch.float64, **options)
        expected, limit = run(plan, 1, **options), 1e-4
        torch.testing.assert_close(other, expected, rtol=limit, atol=limit)
        return
    found = run(plan, 1, **options)
    if "trajectory" in options:
        found, states = found
        assert torch.equal(states[2], WRITTEN)
        assert torch.equal(states[-1], found)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_clipped_predictions(backend):
    plan = plan_of("dpmpp_2m", clip=(-0.5, 0.5))
    model = fastgen.Model(network, SCHEDULE, "noise", dtype=torch.float64)
    found = []
    for cast in (model, fastgen.Model(network, SCHEDULE, "noise")):
        sampler = fastgen.Sampler(cast, plan, backend=backend)
        found.append(sampler(X, callback=lambda step: step.state.fill_(0.25)))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_the_last_state_is_the_result():
    assert torch.equal(run(plan_of("dpmpp_2m"), 3), WRITTEN)


def test_callbacks_that_only_look_change_no_bit():
    for solver in ("unipc", "ddpm", "heun"):
        plan = plan_of(solver)
        model = fastgen.Model(network, SCHEDULE, "noise", dtype=torch.bfloat16)
        plain = fastgen.Sampler(model, plan)(X, seed=5)
        assert torch.equal(run(plan, None, torch.bfloat16), plain)


def test_gradients_flow_through_what_is_written():
    weight = torch.tensor(0.5, requires_grad=True)
    model = fastgen.Model(network, SCHEDULE, "noise", dtype=torch.float64)
    plan = plan_of("unipc")

    def value(w):
        def write(step):
            if step.index == 1:
                step.state.mul_(w)

        sampler = fastgen.Sampler(model, plan, dtype=torch.float64)
        return sampler(X.double(), differentiable=True, callback=write).sum()

    (found,) = torch.autograd.grad(value(weight.double()), weight)
    step = 1e-5
    expected = (value(torch.tensor(0.5 + step)) - value(torch.tensor(0.5 - step))) / (2 * step)
    torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-2, atol=1e-4)


class Log(list):
    """A list that is called: empty at first, so that it counts as false."""

    def __call__(self, value, *_):
        self.append(value)


def test_a_callback_that_is_an_empty_list_is_called():
    model = fastgen.Model(network, SCHEDULE, "noise")
    sampler = fastgen.Sampler(model, plan_of("ddim"), compile=True)
    for run in (fastgen.Sampler(model, plan_of("ddim")), sampler):
        run(X, callback=(log := Log()))
        assert len(log) == 4
    fastgen.sample(model, X, "dopri5", start=0.9, end=0.1, callback=(log := Log()))
    assert log
    fastgen.odeint(lambda t, y: -y, X, [0.0, 1.0], callback=(log := Log()))
    assert log


class Empty(torch.nn.ModuleList):
    """A network without length: it counts as false, and torch.compile's have no length at all."""

    def forward(self, x, t):
        return 0.2 * x

    def __call__(self, *arguments):
        return self.forward(*arguments)


@pytest.mark.parametrize("made", [Empty, lambda: torch.compile(Empty(), backend="eager")])
def test_networks_and_transforms_that_count_as_false(made):
    guidance = fastgen.Guidance(3.0, {}, network=made())
    found = run(plan_of("heun"), -1, guidance=guidance)
    weak = fastgen.Guidance(3.0, {}, network=lambda x, t: 0.2 * x)
    assert torch.equal(found, run(plan_of("heun"), -1, guidance=weak))
    halved = run(plan_of("heun"), -1, guidance=weak, transform=lambda x, t: 0.2 * x)
    assert torch.equal(run(plan_of("heun"), -1, guidance=weak, transform=made()), halved)
