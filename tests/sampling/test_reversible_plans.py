"""Reversible plans: orders, stability, round trips to rounding, gradients that retrace the run."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import fastgen
from fastgen import schedules, solvers
from fastgen.schedules import LinearVP, Rectified

VP = LinearVP()
GRID = {"start": 0.95, "end": 0.05}


def single_step():
    """Solvers that a reversible plan can be made of."""
    found = []
    for name in solvers.names():
        try:
            fastgen.plan(name, VP, 8, **GRID, reversible=True)
        except ValueError:
            continue
        found.append(name)
    return found


SINGLE = single_step()
STOCHASTIC = [n for n in SINGLE if solvers.get(n).stochastic]


class Net(nn.Module):
    """Two layers on four numbers, which count their evaluations."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 4)
        for p in self.parameters():
            p.data = 0.5 * torch.randn(p.shape, generator=generator)
        self.double()
        self.count = 0

    def forward(self, x, *times, shift=0.0):
        self.count += 1
        t = times[0].to(x.dtype)[:, None]
        return self.last(torch.tanh(self.first(x + shift) + t))


def sampler(solver, steps=8, net=None, predicts="noise", coupling=True, **options):
    if solvers.get(solver).two_times:
        predicts = "average_velocity"
    model = fastgen.Model(net or Net(), VP, predicts)
    plan = fastgen.plan(solver, VP, steps, **GRID, reversible=coupling)
    return fastgen.Sampler(model, plan, dtype=torch.float64, **options)


def data():
    return fastgen.randn((3, 4), seed=1, dtype=torch.float64)


def test_every_kind_of_single_step_solver_is_there():
    assert {"ddim", "euler", "heun", "rk4", "exponential_rk4", "dpmpp_2s", "res_3s"} <= set(SINGLE)
    assert {"ddpm", "euler_maruyama", "dpmpp_sde", "seeds_3", "stochastic_heun"} <= set(STOCHASTIC)
    assert not {"dpmpp_2m", "unipc", "deis", "ipndm", "dpmpp_2m_sde"} & set(SINGLE)


@pytest.mark.parametrize("solver", SINGLE)
def test_the_run_is_that_of_its_steps_and_can_be_retraced(solver):
    own, x = sampler(solver), data()
    keys = own.prepared.initial(x, 5, None, None)[1:]
    steps = own.retracing
    with torch.no_grad():
        y, z = steps.there((x, x), keys, {}, last=True)
        scale = float(y.abs().max())
        torch.testing.assert_close(own(x, seed=5), y, rtol=1e-12, atol=1e-12 * scale)
        for found in steps.back((y, z), keys, {}):
            assert (found - x).abs().max() < 1e-10 * max(scale, 1)
    assert 1 <= own.plan.nfe / fastgen.plan(solver, VP, 8, **GRID).nfe <= 2


@pytest.mark.parametrize("solver", SINGLE)
def test_inversion_is_exact(solver):
    model = sampler(solver).model
    options = {"dtype": torch.float64, "seed": 3, "end": 0.05, "exact": True}
    found = fastgen.invert(model, data(), solver, 8, start=0.95, **options)
    # What rounding is multiplied with: noise against data makes a stochastic latent large.
    assert found.error.max() < 1e-10 * max(1.0, float(found.latent.abs().max()))
    assert torch.equal(found.resample(), found.reconstruction)
    assert (found.resample(shift=0.5) - data()).abs().max() > 1e-3


def test_inversion_with_guidance():
    """At a scale of 7, where an ordinary inversion does not find back at all."""
    model = sampler("ddim").model
    guidance = fastgen.Guidance(7.0, unconditional={"shift": 0.3}, batched=False)
    options = {"dtype": torch.float64, "guidance": guidance, "end": 0.05, "start": 0.95}
    ordinary = fastgen.invert(model, data(), "ddim", 12, **options)
    exact = fastgen.invert(model, data(), "ddim", 12, **options, exact=True)
    assert exact.error.max() < 1e-10 < 1e-3 < ordinary.error.max()


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_sde", "exponential_rk3"])
def test_gradients_are_those_of_a_checkpointed_run(solver):
    """At no evaluation more, from the start, the parameters and the arguments."""
    net = Net()
    own = sampler(solver, 50, net)
    x = data().requires_grad_()
    shift = torch.full((3, 4), 0.2, dtype=torch.float64, requires_grad=True)
    wanted = [x, shift, *net.parameters()]
    found, counts = [], []
    for options in ({"checkpoint": True}, {"memory": "reversible"}):
        net.count = 0
        y = own(x, seed=4, differentiable=True, shift=shift, **options)
        found.append((y, torch.autograd.grad(y.sin().sum(), wanted)))
        counts.append(net.count)
    assert counts[1] <= counts[0]
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-11, atol=1e-10)
    for own_gradient, other in zip(found[1][1], found[0][1], strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(own_gradient, other, rtol=1e-8, atol=1e-9 * scale)


@pytest.mark.parametrize("options", ["guided", "clipped", "transformed"])
def test_gradients_with_what_else_a_run_may_have(options):
    net = Net()
    model = fastgen.Model(net, VP, "noise")
    kinds = {
        "guided": {"guidance": fastgen.Guidance(2.0, {"shift": 0.3}, batched=False)},
        "clipped": {},
        "transformed": {"transform": lambda d, t: d.tanh()},
    }
    clip = (-0.7, 0.7) if options == "clipped" else None
    plan = fastgen.plan("ddim", VP, 10, **GRID, clip=clip, reversible=0.9)
    own = fastgen.Sampler(model, plan, dtype=torch.float64, **kinds[options])
    x = data().requires_grad_()
    found = [
        torch.autograd.grad(own(x, differentiable=True, **o).sin().sum(), [x, *net.parameters()])
        for o in ({}, {"memory": "reversible"})
    ]
    for own_gradient, other in zip(*found, strict=True):
        torch.testing.assert_close(own_gradient, other, rtol=1e-8, atol=1e-9)


def test_memory_does_not_grow_with_the_steps():
    def kept(steps, **options):
        total = 0

        def pack(x):
            nonlocal total
            total += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            sampler("ddim", steps)(data().requires_grad_(), differentiable=True, **options)
        return total

    short, long = (kept(n, memory="reversible") for n in (5, 50))
    assert short == long <= 2 * 12
    assert kept(50) > 100 * long


BOTH_WAYS = ["ddim", "dpm_solver_1", "euler"]


@pytest.mark.parametrize("rule", ["belm", "bdia"])
@pytest.mark.parametrize("solver", BOTH_WAYS)
def test_looking_both_ways_takes_no_evaluation_more(solver, rule):
    """The run, its way back, an inversion and gradients, at one evaluation a step."""
    net = Net()
    own, x = sampler(solver, 10, net, coupling=rule), data().requires_grad_()
    assert own.plan.nfe == 10
    keys = own.prepared.initial(x, 5, None, None)[1:]
    steps = own.retracing
    with torch.no_grad():
        pair = steps.there(steps.first(x, keys, {}), keys, {}, last=True)
        torch.testing.assert_close(pair[0], own(x), rtol=1e-12, atol=1e-11)
        torch.testing.assert_close(steps.back(pair, keys, {})[1], x.detach(), rtol=0, atol=1e-10)
    options = {"dtype": torch.float64, "start": 0.95, "end": 0.05, "reversible": rule}
    found = fastgen.invert(own.model, x.detach(), solver, 10, exact=True, **options)
    assert found.error.max() < 1e-10
    gradients, counts = [], []
    for way in ({"checkpoint": True}, {"memory": "reversible"}):
        net.count = 0
        y = own(x, differentiable=True, **way)
        gradients.append(torch.autograd.grad(y.sin().sum(), [x, *net.parameters()]))
        counts.append(net.count)
    assert counts[1] <= counts[0]
    for own_gradient, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own_gradient, other, rtol=1e-8, atol=1e-9)


def test_belm_of_noise_steps_is_that_of_the_paper():
    """Wang et al. 2024, equation of O-BELM, for x / alpha and steps h of sigma / alpha."""
    plan = fastgen.plan("dpm_solver_1", VP, 6, **GRID, reversible="belm")
    found, times = plan.canonical(), plan.times
    assert set(found.quantities) == {"noise"}
    h = np.diff([VP.sigma(t) / VP.alpha(t) for t in times])
    outputs = np.random.default_rng(0).standard_normal(6)
    alpha = np.array([VP.alpha(t) for t in times])
    x = [1 / alpha[0]]
    x.append(x[0] + h[0] * outputs[0])
    for n in range(1, 6):
        ratio = h[n] / h[n - 1]
        change = h[n] * (1 + ratio) * outputs[n]
        x.append(ratio**2 * x[n - 1] + (1 - ratio**2) * x[n] + change)
    ours = found.a + found.b @ outputs
    np.testing.assert_allclose(ours, np.array(x) * alpha, rtol=1e-9)


ORDERS = {
    "ddim belm": 2,
    "dpm_solver_1 belm": 2,
    "ddim": 1,
    "euler": 1,
    "heun": 2,
    "exponential_heun": 2,
    "rk3": 3,
    "rk4": 4,
}


@pytest.mark.parametrize("solver", sorted(ORDERS))
def test_orders(solver):
    """That of the solver, to the exact flow of a Gaussian; of belm it is 2."""
    mean, scale = 0.4, 0.6

    def net(x, t):
        alpha, sigma = VP.alpha(t)[:, None], VP.sigma(t)[:, None]
        return mean + alpha * scale**2 / (alpha**2 * scale**2 + sigma**2) * (x - alpha * mean)

    model = fastgen.Model(net, VP, "data", time_dtype=torch.float64)
    x = data()

    def deviation(t):
        return math.hypot(VP.alpha(t) * scale, VP.sigma(t))

    end = VP.alpha(0.1) * mean + deviation(0.1) / deviation(0.8) * (x - VP.alpha(0.8) * mean)
    counts, errors = np.array([20, 28, 40, 56, 80]), []
    for steps in counts:
        name, *rule = solver.split()
        options = {"start": 0.8, "end": 0.1, "reversible": rule[0] if rule else True}
        plan = fastgen.plan(name, VP, int(steps), timesteps="log_snr", **options)
        found = fastgen.Sampler(model, plan, dtype=torch.float64)(x)
        errors.append(float((found - end).norm()))
    measured = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert measured > ORDERS[solver] - 0.3, measured


def radius(w, coupling):
    """Spectral radius of a step of coupled Euler on dx/dt = lambda x, h lambda = w."""
    first = np.array([coupling, 1 + w - coupling])
    return max(abs(np.linalg.eigvals([first, np.array([0, 1]) + w * first])))


@pytest.mark.parametrize("coupling", [0.5, 0.8, 0.9, 1.0])
def test_growth_is_that_of_the_coupled_pair(coupling):
    """With the plan's own coefficients; no state grows exactly below h |lambda| = 1 - c."""
    for w in (-0.35, -0.25, -0.15, -0.05):
        logs = []
        for steps in (80, 120):
            times = np.linspace(1, 0, steps + 1)
            plan = fastgen.plan("euler", Rectified(), timesteps=times, reversible=coupling)
            found, rate = plan.canonical(), -w * steps
            x = np.zeros(plan.nfe + 1)
            for i in range(plan.nfe + 1):
                x[i] = found.a[i] + rate * found.b[i, :i] @ x[:i]
            logs.append(math.log(abs(x[-1])))
        growth = math.exp((logs[1] - logs[0]) / 40)
        assert growth == pytest.approx(radius(w, coupling), rel=0.02)
        assert (radius(w, coupling) < 1) == (-w < 1 - coupling)


def test_it_is_a_plan_like_any_other():
    """Stored, captured, served and parallel in time."""
    net = Net().float()
    model = fastgen.Model(net, VP, "noise")
    plan = fastgen.plan("ddpm", VP, 6, **GRID, reversible=0.95)
    again = fastgen.Plan.from_json(plan.to_json())
    assert again.options["reversible"] == 0.95
    own = fastgen.Sampler(model, again)
    x = own((2, 4), seed=3)
    assert torch.equal(fastgen.Sampler(model, plan)((2, 4), seed=3), x)
    torch.testing.assert_close(own.capture((2, 4))(seed=3), x)
    parallel = fastgen.Parallel(window=4, tolerance=1e-6)
    torch.testing.assert_close(own((2, 4), seed=3, parallel=parallel), x, rtol=1e-4, atol=1e-4)
    batch = own.serve((2, 4))
    ticket = batch.admit(seed=3)
    found = {}
    while batch.active:
        found |= batch.step()
    torch.testing.assert_close(found[ticket], x[0])
    keys = own.prepared.initial(x, 3, None, None)[1:]
    with torch.no_grad():
        pair = own.retracing.there((x, x), keys, {}, last=True)
        away = own.retracing.back(pair, keys, {})[0] - x
        assert away.abs().max() < 1e-3 * pair[0].abs().max()
    short = fastgen.sample(model, (2, 4), "heun", 4, reversible=True, seed=1, **GRID)
    assert torch.isfinite(short).all()


def of_a_tensor():
    hidden = torch.ones((), dtype=torch.float64, requires_grad=True)
    own = sampler("ddim", net=lambda x, t: hidden * x)
    return own(data().requires_grad_(), differentiable=True, memory="reversible").sum().backward()


OWN = sampler("ddim")
REFUSED = {
    "multistep": (lambda: fastgen.plan("unipc", VP, 5, reversible=True), "reads earlier steps"),
    "two evaluations": (
        lambda: fastgen.plan("heun", VP, 5, **GRID, reversible="belm"),
        "not one evaluation",
    ),
    "noise both ways": (
        lambda: fastgen.plan("ddpm", VP, 5, **GRID, reversible="bdia"),
        "not one evaluation without noise",
    ),
    "rule": (lambda: fastgen.plan("ddim", VP, 5, reversible="edict"), "reversible='edict'"),
    "coupling": (lambda: fastgen.plan("ddim", VP, 5, reversible=1.5), "reversible=1.5"),
    "zero": (lambda: fastgen.plan("ddim", VP, 5, reversible=0.0), "reversible=0.0"),
    "reverse": (
        lambda: fastgen.plan("ddim", VP, 5, reversible=True, reverse=True),
        "exact=True",
    ),
    "data": (
        lambda: fastgen.plan("ddpm", VP, 5, **GRID, variance="learned", reversible=True),
        "has no step back",
    ),
    "not reversible": (
        lambda: fastgen.Sampler(
            fastgen.Model(Net(), VP, "noise"), fastgen.plan("ddim", VP, 5)
        )(data(), differentiable=True, memory="reversible"),
        "cannot be retraced; make it with",
    ),
    "not differentiable": (
        lambda: sampler("ddim")(data(), memory="reversible"),
        "differentiable=True only",
    ),
    "both": (
        lambda: sampler("ddim")(data(), differentiable=True, checkpoint=True, memory="reversible"),
        "choose one",
    ),
    "trajectory": (
        lambda: sampler("ddim")(data(), differentiable=True, trajectory=True, memory="reversible"),
        "shows no states",
    ),
    "name": (lambda: sampler("ddim")(data(), memory="reverse"), "memory="),
    "torch.func": (
        lambda: torch.func.grad(
            lambda x: OWN(x, differentiable=True, memory="reversible").sum()
        )(data()),
        "torch.func",
    ),
    "hidden tensor": (of_a_tensor, "pass it in net_kwargs"),
    "error-controlled": (
        lambda: fastgen.sample(
            fastgen.Model(Net(), VP, "noise"), (2, 4), "dopri5", memory="reversible"
        ),
        "chooses its own steps",
    ),
    "inversion": (
        lambda: fastgen.invert(sampler("ddim").model, data(), "dpmpp_2m", 5, exact=True),
        "reads earlier steps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_refusals(case):
    call, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=message):
        call()


@pytest.mark.parametrize("schedule", [schedules.CosineVP(), Rectified(), schedules.EDM()])
def test_other_processes(schedule):
    model = fastgen.Model(lambda x, t: torch.tanh(x), schedule, "data")
    x = data()
    found = fastgen.invert(model, x, "heun", 8, end=0.05, start=0.9, exact=True, dtype=x.dtype)
    assert found.error.max() < 1e-10
