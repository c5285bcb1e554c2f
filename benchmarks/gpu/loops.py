"""Whole sampling loops with real networks, eager, captured, served and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

import fastgen
from benchmarks.gpu.bench import Bench
from benchmarks.peers import diffusers
from benchmarks.problems.networks import ON_GPU
from benchmarks.tools.harness import Provider
from fastgen.schedules import DiscreteVP


def loops(bench: Bench) -> None:
    """Whole sampling loops, us per step; the network's own time is a row of its own."""
    schedule, steps = DiscreteVP.linear(), 3 if bench.quick else 20
    plans = [
        fastgen.plan(solver, schedule, steps, timesteps="trailing")
        for solver in ("ddim", "dpmpp_2m", "ddpm")
    ]
    for name, net, x in _networks(bench):
        shape = tuple(x.shape)
        bench.compare("loops", f"{name}: network", shape, x.dtype, _network(bench, net, x, steps))
        for plan in plans:
            providers = _providers(bench, net, x, plan)
            bench.compare("loops", f"{name}: {plan.solver}", shape, x.dtype, providers)


def _networks(bench: Bench) -> Iterator[tuple[str, torch.nn.Module, Tensor]]:
    for name, (build, shape) in ON_GPU.items():
        if bench.quick:
            shape = (16 if len(shape) == 2 else 1, *shape[1:])
        torch.manual_seed(0)
        net = build().to(bench.device).eval()
        yield name, net, torch.randn(shape, device=bench.device)


def compiled(bench: Bench) -> None:
    """DDIM beside torch.compile, whose compiling takes long."""
    plan = fastgen.plan("ddim", DiscreteVP.linear(), 3 if bench.quick else 20, timesteps="trailing")
    for name, net, x in _networks(bench):
        sampler = fastgen.Sampler(fastgen.Model(net, plan.schedule, "noise"), plan)
        providers = dict(_fastgen(bench, sampler, x)) | dict(_compiled(bench, net, x, plan))
        providers.pop("fastgen served")
        label = f"{name}: ddim beside torch.compile"
        bench.compare("loops", label, tuple(x.shape), x.dtype, providers)


def _providers(
    bench: Bench, net: torch.nn.Module, x: Tensor, plan: fastgen.Plan
) -> dict[str, Callable[[], Provider]]:
    sampler = fastgen.Sampler(fastgen.Model(net, plan.schedule, "noise"), plan)
    providers = dict(_fastgen(bench, sampler, x))
    providers["diffusers"] = lambda: _diffusers(plan.solver, net, x, plan.steps)
    if plan.solver == "dpmpp_2m":
        providers["k-diffusion"] = lambda: _k_diffusion(net, x, plan.steps)
    if plan.solver == "ddim":
        providers["torchdiffeq euler"] = lambda: _torchdiffeq(net, x, plan.steps)
    return providers


def _network(
    bench: Bench, net: torch.nn.Module, x: Tensor, steps: int
) -> dict[str, Callable[[], Provider]]:
    t = torch.full((x.shape[0],), 0.5, device=x.device)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(steps):
                net(x, t)

    def once() -> None:
        with torch.inference_mode():
            net(x, t)

    return {
        "eager": lambda: Provider("", run, "torch", steps),
        "captured": lambda: Provider("", bench.graphed(once, steps), "torch", steps),
    }


def _fastgen(
    bench: Bench, sampler: fastgen.Sampler, x: Tensor
) -> Iterator[tuple[str, Callable[[], Provider]]]:
    units = sampler.plan.nfe
    yield "fastgen", lambda: Provider("", lambda: sampler(x, seed=1), units=units)

    def captured() -> Provider:
        graph = sampler.capture(tuple(x.shape), device=x.device)
        if bench.device.type == "cuda" and not graph.graphed:
            raise RuntimeError("not captured")
        return Provider("", lambda: graph(x, seed=1), units=units)

    yield "fastgen captured", captured

    def served() -> Provider:
        """The same plan for every row, all admitted at once: us per step of the batch."""
        batch = sampler.serve(tuple(x.shape), device=x.device)

        def run() -> None:
            while batch.free:
                batch.admit()
            batch.step()

        if x.shape[0] > 64:
            raise RuntimeError("more than 64 rows would be admitted one by one")
        return Provider("", run)

    yield "fastgen served", served


def _compiled(
    bench: Bench, net: torch.nn.Module, x: Tensor, plan: fastgen.Plan
) -> Iterator[tuple[str, Callable[[], Provider]]]:
    """DDIM in a user's own words, network and step compiled together."""
    torch._dynamo.reset()  # or, after eight graphs of one function, it would run eagerly
    grid, steps = [float(t) for t in plan.times], plan.steps
    alpha, sigma = plan.schedule.alpha, plan.schedule.sigma
    ratios = [alpha(t) / alpha(s) for s, t in pairwise(grid)]
    shifts = [sigma(t) - r * sigma(s) for r, (s, t) in zip(ratios, pairwise(grid), strict=True)]
    a, b = torch.tensor([ratios, shifts], dtype=torch.float32, device=x.device)
    times = torch.tensor(grid[:-1], device=x.device)[:, None].repeat(1, x.shape[0])

    def step(state: Tensor, t: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return a * state + b * net(state, t)

    def provider(mode: str) -> Provider:
        compiled = torch.compile(step, mode=mode, dynamic=False)

        def run() -> None:
            state = x
            with torch.inference_mode():
                for k in range(steps):
                    if mode == "reduce-overhead":
                        torch.compiler.cudagraph_mark_step_begin()
                        state = state.clone()
                    state = compiled(state, times[k], a[k], b[k])

        return Provider("", run, "torch", steps)

    for mode in ("default",) if bench.quick else ("default", "reduce-overhead"):
        yield f"torch.compile {mode}", lambda mode=mode: provider(mode)


def _diffusers(solver: str, net: torch.nn.Module, x: Tensor, steps: int) -> Provider:
    name = {"ddim": "DDIM", "ddpm": "DDPM", "dpmpp_2m": "DPMSolverMultistep"}[solver]
    options = {} if solver == "dpmpp_2m" else {"clip_sample": False}
    config = {"timestep_spacing": "trailing", **options}
    called = diffusers.for_each(x.shape[0], net, 1 / 1000)
    made = diffusers.loop(f"{name}Scheduler", config, steps, x, called)
    return Provider("", torch.inference_mode()(made.run), "diffusers", steps)


def _k_diffusion(net: torch.nn.Module, x: Tensor, steps: int) -> Provider:
    from k_diffusion.sampling import get_sigmas_karras, sample_dpmpp_2m

    sigmas = get_sigmas_karras(steps, 0.02, 80.0, device=x.device)

    def model(state: Tensor, sigma: Tensor) -> Tensor:
        return state - sigma.reshape(-1, *[1] * (x.ndim - 1)) * net(state, sigma)

    def run() -> None:
        with torch.inference_mode():
            sample_dpmpp_2m(model, x, sigmas, disable=True)

    return Provider("", run, "k-diffusion", steps)


def _torchdiffeq(net: torch.nn.Module, x: Tensor, steps: int) -> Provider:
    from torchdiffeq import odeint

    grid = torch.linspace(1, 0, steps + 1, device=x.device)

    def run() -> None:
        with torch.inference_mode():
            odeint(lambda t, y: net(y, t.expand(y.shape[0])), x, grid, method="euler")

    return Provider("", run, "torchdiffeq", steps)
