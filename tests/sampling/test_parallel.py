"""Runs parallel in time: the ordinary run's bits at tolerance 0, near it otherwise."""

import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fastgen
from fastgen import Parallel, schedules, solvers

VP = schedules.LinearVP()


def network(x, *times, shift=0.1, table=None):
    """Elementwise, so that a batch's size changes no bit."""
    t = times[0].reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    if isinstance(shift, torch.Tensor):
        shift = shift.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    if table is not None:
        shift = shift + table.sum()
    return torch.tanh(x + shift) * (0.9 - 0.3 * t) + 0.1 * torch.sin(3 * x)


def sampler(solver="ddim", steps=10, predicts="noise", schedule=VP, model=None, **options):
    kept = ("guidance", "transform", "noise", "dtype", "backend")
    own = {name: options.pop(name) for name in kept if name in options}
    if solvers.get(solver).two_times:
        predicts = "average_velocity"
    model = {"per_sample": ("shift",), "shared": ("table",)} | (model or {})
    made = fastgen.Model(network, schedule, predicts, **model)
    plan = fastgen.plan(solver, schedule, steps, **{"start": 0.9, "end": 0.1} | options)
    return fastgen.Sampler(made, plan, **own)


@pytest.mark.parametrize("solver", solvers.names())
def test_every_solver_gives_its_own_bits(solver):
    own = sampler(solver)
    parallel = Parallel(window=7, tolerance=0)
    assert torch.equal(own((3, 5), seed=2, parallel=parallel), own((3, 5), seed=2))
    report = parallel.report
    assert report.rounds == len(report.accepted) <= report.nfe == own.plan.nfe
    assert sum(report.accepted) == report.nfe <= report.rows <= 7 * report.rounds


@settings(max_examples=30)
@given(
    solver=st.sampled_from(solvers.names()),
    steps=st.integers(2, 12),
    window=st.integers(2, 40),
    predicts=st.sampled_from(["noise", "data", "velocity", "v", "edm"]),
    guidance=st.sampled_from([None, "joined", "apart", "interval", "rescaled", "rows", "weaker"]),
    transform=st.booleans(),
    clip=st.booleans(),
    noise=st.sampled_from(["draws", "brownian"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    half=st.booleans(),
    backend=st.sampled_from(["reference", "cpp"]),
    acceleration=st.sampled_from([None, "secant"]),
    watched=st.booleans(),
    seed=st.integers(0, 100),
)
def test_drawn_plans_give_their_own_bits(
    solver, steps, window, predicts, guidance, transform, clip, noise, dtype, half, backend,
    acceleration, watched, seed,
):  # fmt: skip
    kinds = {
        "joined": {"scale": 2.0},
        "apart": {"scale": 2.0, "batched": False},
        "interval": {"scale": 3.0, "interval": (0.3, 0.7)},
        "rescaled": {"scale": 2.0, "rescale": 0.7},
        "rows": {"scale": torch.tensor([1.5, 2.0, 0.5])},
        "weaker": {"scale": 1.5, "network": lambda x, *t, **_: 0.3 * x},
    }
    plan_options = {"clip": (-0.8, 0.8)} if clip and not solvers.get(solver).two_times else {}
    if guidance is not None:
        unconditional = {"shift": torch.full((3,), -0.2)}
        plan_options["guidance"] = fastgen.Guidance(unconditional=unconditional, **kinds[guidance])
    if transform:
        plan_options["transform"] = lambda data, t: data.tanh()
    model = {"dtype": torch.bfloat16} if half else {}
    try:
        own = sampler(solver, steps, predicts, noise=noise, dtype=dtype, backend=backend,
                      model=model, **plan_options)  # fmt: skip
    except ValueError:  # what a plan, a prediction and a transform do not allow together
        return
    options = {"seed": seed, "shift": torch.tensor([0.1, 0.3, -0.2]), "trajectory": watched}
    if watched:
        options["callback"] = lambda step: step.state.mul_(0.99) if step.index == 1 else None
    parallel = Parallel(window=window, tolerance=0, acceleration=acceleration)
    raised = None
    try:
        expected = own((3, 4), **options)
    except ValueError as error:  # writing to a state from which the solver does not go on
        raised = error
    with pytest.raises(ValueError, match="callback") if raised is not None else nullcontext():
        found = own((3, 4), **options, parallel=parallel)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        assert parallel.report.rounds <= own.plan.nfe


def rounds(own, **options):
    parallel = Parallel(**{"window": 64} | options)
    expected = own((4, 6), seed=3)
    found = own((4, 6), seed=3, parallel=parallel)
    return parallel.report.rounds, float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc", "ddpm", "dpmpp_2m_sde"])
def test_tolerances(solver):
    """Fewer rounds than evaluations, fewer the larger the tolerance, and errors of its size."""
    own = sampler(solver, 50)
    found = [rounds(own, tolerance=tolerance) for tolerance in (1e-2, 1e-4, 1e-6)]
    assert [r for r, _ in found] == sorted(r for r, _ in found)
    assert found[0][0] < 15
    for tolerance, (_, error) in zip((1e-2, 1e-4, 1e-6), found, strict=True):
        assert error < 2 * tolerance
    assert found[1][0] < rounds(own, tolerance=1e-4, acceleration=None)[0]


@pytest.mark.parametrize("rate", [0.5, 2.0, 6.0])
def test_picard_iterates_of_a_linear_velocity(rate):
    """dx/dt = rate x, from which the iterates differ by at most (rate t)^k / k! of the start.

    After k rounds Euler's states are the first k + 1 terms of the series of (1 - h rate)^i.
    """
    steps, seen = 20, []

    def velocity(x, t):
        seen.append(x.clone())
        return rate * x

    model = fastgen.Model(velocity, VP, "velocity")  # unit variance: the first guess is constant
    own = fastgen.Sampler(
        model, fastgen.plan("euler", VP, steps, end=0.0 + VP.t_min), dtype=torch.float64
    )
    start = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    parallel = Parallel(window=steps, tolerance=1e-14, acceleration=None)
    found = own(start, parallel=parallel)
    times = own.plan.times
    h = float(times[0] - times[1])
    settled = 0
    for k, (x, accepted) in enumerate(zip(seen, parallel.report.accepted, strict=True)):
        for i, state in zip(range(settled, steps), x, strict=True):
            series = sum(math.comb(i, m) * (-h * rate) ** m for m in range(min(k, i) + 1))
            torch.testing.assert_close(state, series * start[0], rtol=1e-11, atol=1e-11)
            exact = (1 - h * rate) ** i * start[0]
            left = (rate * h * i) ** (k + 1) / math.factorial(k + 1)
            worst = left * math.exp(rate * h * i) * start.abs().max() + 1e-11
            assert (state - exact).abs().max() <= worst
        settled += accepted
    torch.testing.assert_close(found, (1 - h * rate) ** steps * start, rtol=1e-10, atol=1e-12)
    # With the slope known after one round, the second one is exact.
    secant = Parallel(window=steps, tolerance=1e-9)
    own(start, parallel=secant)
    assert secant.report.rounds <= 4 < parallel.report.rounds


@pytest.mark.parametrize("schedule", [schedules.EDM(), schedules.VE(), schedules.Rectified()])
def test_large_noise(schedule):
    """First guesses scale with the process, so that states far from unit size converge."""
    model = fastgen.Model(lambda x, t: torch.tanh(x), schedule, "data")
    own = fastgen.Sampler(model, fastgen.plan("dpmpp_2m", schedule, 40))
    expected = own((4, 6), seed=1)
    parallel = Parallel(window=40, tolerance=1e-4)
    found = own((4, 6), seed=1, parallel=parallel)
    assert parallel.report.rounds < 25
    assert (found - expected).norm() < 3e-3 * expected.norm()


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.8))
        self.batches = []

    def forward(self, x, t, shift):
        self.batches.append(len(x))
        return network(x, t, shift=shift) * self.scale


def test_replicas_take_their_parts():
    first, second = Wide(), Wide()
    model = fastgen.Model(first, VP, "noise", per_sample=("shift",))
    own = fastgen.Sampler(model, fastgen.plan("dpmpp_2m_sde", VP, 12))
    arguments = {"shift": torch.tensor([0.3, -0.1])}
    expected = own((2, 4), **arguments)
    first.batches.clear()
    parallel = Parallel(window=6, tolerance=0, replicas=[second])
    assert torch.equal(own((2, 4), **arguments, parallel=parallel), expected)
    assert len(first.batches) == parallel.report.rounds >= len(second.batches) > 0
    assert first.batches[0] == second.batches[0] == 6
    assert sum(first.batches) + sum(second.batches) == 2 * parallel.report.rows
    weaker = fastgen.Guidance(2.0, network=lambda x, t, **_: x)
    own = fastgen.Sampler(model, own.plan, guidance=weaker)
    with pytest.raises(ValueError, match="replicas: guidance has a network of its own"):
        own((2, 4), **arguments, parallel=parallel)


def test_learned_variance():
    def net(x, t):
        return torch.cat([network(x, t), torch.sin(x)], 1)

    model = fastgen.Model(net, VP, "noise", learned_variance=True)
    own = fastgen.Sampler(model, fastgen.plan("ddpm", VP, 9, variance="learned"))
    parallel = Parallel(window=5, tolerance=0)
    assert torch.equal(own((2, 3), parallel=parallel), own((2, 3)))


def test_two_outputs():
    schedule = schedules.Rectified()
    model = fastgen.Model(
        lambda x, t: (torch.tanh(x), -torch.sin(x)), schedule, "velocity_and_score"
    )
    plan = fastgen.plan("bridge_sde", schedule, 9, start=0.9, end=0.1)
    own = fastgen.Sampler(model, plan)
    parallel = Parallel(window=5, tolerance=0)
    assert torch.equal(own((2, 3), parallel=parallel), own((2, 3)))


def test_callbacks_see_the_ordinary_states():
    own = sampler("dpmpp_2m")
    seen = {}
    for name, options in (("ordinary", {}), ("parallel", {"parallel": Parallel(4, 0)})):
        seen[name] = []
        _, states = own(
            (2, 3),
            trajectory=True,
            callback=lambda s, to=seen[name]: to.append((s.state.clone(), s.data)),
            **options,
        )
        seen[name] += [(x, x) for x in states]
    for pair, other in zip(seen["parallel"], seen["ordinary"], strict=True):
        assert torch.equal(pair[0], other[0])
        assert torch.equal(pair[1], other[1])


def test_memory_that_the_network_uses_again():
    memory = torch.empty(3 * 64 * 5)

    def net(x, t):
        out = memory[: x.numel()].view(x.shape)
        return torch.tanh(x, out=out)

    model = fastgen.Model(net, VP, "noise", reuses_output=True)
    own = fastgen.Sampler(model, fastgen.plan("dpmpp_3m", VP, 12))
    assert torch.equal(own((3, 5), parallel=Parallel(8, 0)), own((3, 5)))


def test_nothing_finite_is_said_of_what_is_used_alone():
    """Guesses may leave the numbers; an evaluation of the run itself may not."""
    own = fastgen.Sampler(
        fastgen.Model(lambda x, t: torch.where(t.reshape(-1, 1) < 0.5, torch.nan, x), VP, "noise"),
        fastgen.plan("ddim", VP, 10),
    )
    with pytest.raises(FloatingPointError, match="evaluation 6 of 10"):
        own((1, 2), check_finite=True, parallel=Parallel(4, 0))


REFUSED = {
    "undeclared": (
        lambda: fastgen.Sampler(
            fastgen.Model(network, VP, "noise"), fastgen.plan("ddim", VP, 4)
        )((2, 2), shift=torch.zeros(2), parallel=Parallel()),
        ValueError,
        r"net_kwargs has shift, which may have a row.*per_sample=\('shift',\)",
    ),
    "differentiable": (
        lambda: sampler()((2, 2), differentiable=True, parallel=Parallel()),
        ValueError,
        "not recorded for derivatives",
    ),
    "torch.func": (
        lambda: torch.func.vmap(lambda x: sampler()(x[None], parallel=Parallel()))(
            torch.zeros(2, 3)
        ),
        ValueError,
        "within torch.func's transforms",
    ),
    "type": (lambda: sampler()((2, 2), parallel=32), TypeError, "parallel"),
    "window": (lambda: Parallel(window=1), ValueError, "window=1"),
    "tolerance": (lambda: Parallel(tolerance=-1.0), ValueError, "tolerance=-1.0"),
    "acceleration": (lambda: Parallel(acceleration="newton"), ValueError, "acceleration"),
    "replicas": (lambda: Parallel(replicas=[network]), TypeError, r"replicas\[0\]"),
    "error-controlled": (
        lambda: fastgen.sample(
            fastgen.Model(network, VP, "noise"), (2, 2), "dopri5", parallel=Parallel()
        ),
        ValueError,
        "parallel=.*chooses its own steps",
    ),
    "wide outputs": (
        lambda: fastgen.Sampler(
            fastgen.Model(lambda x, t: x.double(), VP, "noise"), fastgen.plan("ddim", VP, 4)
        )((2, 2), parallel=Parallel()),
        ValueError,
        "output is float64 and the state float32",
    ),
    "capture": (
        lambda: sampler().capture((2, 2), parallel=Parallel()),
        TypeError,
        "parallel: .*as many rounds as the data asks for",
    ),
    "serve": (
        lambda: sampler().serve((2, 2), parallel=Parallel()),
        TypeError,
        "parallel: .*as many rounds as the data asks for",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_refusals(case):
    call, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        call()


def test_what_it_shows():
    parallel = Parallel()
    assert "window=32" in repr(parallel)
    sampler()((1, 2), parallel=parallel)
    assert "rounds" in repr(parallel)
