"""On one GPU: `python -m benchmarks.gpu`; copies, the kernels' share of them, and whole loops.

Everything is timed by the wall, from an idle device to an idle device over many calls, so that
host and device count as they overlap in use. Kernels are called from a CUDA graph, which leaves
the device's time alone. A case that fails or for which no time is left gives a row that says so.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

import fastgen
from benchmarks.gpu_couplings import couplings
from benchmarks.gpu_integrate import integrate
from benchmarks.harness import Provider, Row, row, write
from benchmarks.networks import NETWORKS
from fastgen.kernels import Noise, implementation
from fastgen.schedules import DiscreteVP

Run = Callable[[], object]
SUITES = ["kernels", "couplings", "loops", "integrate"]


class Bench:
    """One device, one file, one deadline."""

    def __init__(self, device: str, out: Path, seconds: float, quick: bool) -> None:
        self.device, self.out, self.quick = torch.device(device), out, quick
        self.until = time.monotonic() + seconds
        self.rounds = 3 if quick else 10
        self.slice = 0.01 if quick else 0.05  # seconds of one timing
        self.found: list[Row] = []

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, run: Run, calls: int) -> float:
        """Of so many calls."""
        self.synchronise()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        self.synchronise()
        return time.perf_counter() - start

    def graphed(self, run: Run, calls: int) -> Run:
        """So many calls as a graph, where there are graphs."""
        if self.device.type != "cuda":
            return lambda: [run() for _ in range(calls)]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                run()
        return graph.replay

    def add(self, found: Row) -> None:
        """Keep a row, print it and write the file."""
        self.found.append(found)
        share = f" {found.floor / found.median:6.1%} of copy" if found.floor else ""
        print(
            f"{found.suite:8} {found.case:36} {found.shape:14} {found.dtype:9} "
            f"{found.provider:28} {found.metric:8} {found.median:11.5g} {found.unit}{share}",
            flush=True,
        )
        write(self.found, self.out)

    def skip(self, suite: str, case: str, provider: str, shape: tuple[int, ...], why: str) -> None:
        """A row for what is not there."""
        reason = " ".join(why.split())[:160]
        empty = row(
            suite, case, provider, "torch", shape, torch.float32, "skipped", reason, [math.nan]
        )
        self.add(empty)

    def compare(
        self,
        suite: str,
        case: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        providers: dict[str, Callable[[], Provider]],
        floor: float = 0.0,
    ) -> dict[str, float]:
        """Build, warm up and time providers in alternation; medians in us per unit, by name."""
        ready: list[Provider] = []
        calls: dict[str, int] = {}
        for name, build in providers.items():
            if time.monotonic() > self.until:
                self.skip(suite, case, name, shape, "no time left")
                continue
            try:
                provider = replace(build(), name=name)
                for _ in range(3):
                    provider.run()
                once = min(self.seconds(provider.run, 1) for _ in range(3))
            except Exception as error:
                self.skip(suite, case, name, shape, f"{type(error).__name__}: {error}")
                continue
            ready.append(provider)
            calls[name] = max(1, min(2000, int(self.slice / max(once, 1e-7))))
        times: dict[str, list[float]] = {p.name: [] for p in ready}
        for _ in range(self.rounds):
            for p in ready:
                each = self.seconds(p.run, calls[p.name]) / calls[p.name] / p.units
                times[p.name].append(1e6 * each)
        medians = {}
        for p in ready:
            found = row(
                suite, case, p.name, p.package, shape, dtype, "time", "us", times[p.name],
                floor=floor,
            )  # fmt: skip
            medians[p.name] = found.median
            self.add(found)
        return medians


def copies(bench: Bench) -> float:
    """Bytes per microsecond that a large copy reads and writes."""
    best = 0.0
    for exponent in (12, 14) if bench.quick else (20, 24, 26, 28, 30):
        x, y = torch.ones(2, 2**exponent, device=bench.device).unbind()
        calls = max(1, 2 ** (26 - exponent))
        run = bench.graphed(lambda x=x, y=y: y.copy_(x), calls)
        provider = Provider("torch copy", run, "torch", calls)
        medians = bench.compare(
            "copy", "copy", (2**exponent,), torch.float32, {"copy_": lambda p=provider: p}
        )
        best = max(best, 8 * 2**exponent / medians.get("copy_", math.inf))
    print(f"copy: {best / 1e6:.3f} TB/s", flush=True)
    return best


def stage(
    bench: Bench, streams: int, shape: tuple[int, int], dtype: torch.dtype, noise: bool
) -> Run:
    """One `combine` with so many tensors read and written."""
    device, inputs = bench.device, streams - 1
    tensors: list[Tensor | None] = [
        torch.ones(shape, dtype=dtype, device=device) for _ in range(inputs)
    ]
    out = torch.empty(shape, dtype=dtype, device=device)
    table = torch.full((1, 1, inputs + noise), 0.3, dtype=torch.float64, device=device)
    keys = None
    if noise:
        ids = torch.arange(shape[0], device=device)
        keys = Noise(ids[:1].clone(), ids, torch.ones(1, dtype=torch.int64, device=device))
    bound = implementation(device).bind(tensors, [out], table, None, keys)
    return lambda: bound([])


def formula(inputs: int, noise: bool) -> Callable[..., Tensor]:
    """The same as a user would write it."""

    def combination(*tensors: Tensor) -> Tensor:
        total = 0.3 * tensors[0]
        for x in tensors[1:]:
            total = total + 0.3 * x
        return total + 0.3 * torch.randn_like(total) if noise else total

    return combination


def kernels(bench: Bench, bandwidth: float) -> None:
    """Every width of a stage, and the noise alone."""
    exponents = (10,) if bench.quick else (26, 28, 20, 30)
    for exponent in exponents:
        shape = (64, 2**exponent // 64)
        for dtype in (torch.float32, torch.bfloat16):
            for noise in (False, True):
                for streams in range(2, 7):
                    compiled = exponent == exponents[0] and streams in (2, 4)
                    _stage_case(bench, bandwidth, shape, dtype, noise, streams, compiled)
    size = 2**8 if bench.quick else 2**20
    seeds = torch.tensor([1], device=bench.device)
    ids, times = torch.arange(64, device=bench.device), torch.tensor([0.3]).double()
    times = times.to(bench.device)
    for name, run in {
        "normals": lambda: fastgen.kernels.normals(size, seeds, ids, seeds, 1),
        "brownian, one time": lambda: fastgen.kernels.brownian(size // 16, seeds, ids, 0, times),
    }.items():
        elements = size if name == "normals" else size // 16
        width = 4 if name == "normals" else 8
        floor = width * 64 * elements / bandwidth
        providers = {"fastgen": lambda run=run: Provider("", run)}
        bench.compare("kernels", name, (64, elements), torch.float32, providers, floor)


def _stage_case(
    bench: Bench,
    bandwidth: float,
    shape: tuple[int, int],
    dtype: torch.dtype,
    noise: bool,
    streams: int,
    compiled: bool,
) -> None:
    elements = math.prod(shape)
    calls = max(1, min(20, 2**26 // elements))

    def own() -> Provider:
        run = bench.graphed(stage(bench, streams, shape, dtype, noise), calls)
        return Provider("", run, units=calls)

    def inductor() -> Provider:
        torch._dynamo.reset()
        f = torch.compile(formula(streams - 1, noise), dynamic=False)
        x = [torch.ones(shape, dtype=dtype, device=bench.device) for _ in range(streams - 1)]
        f(*x)
        return Provider("", bench.graphed(lambda: f(*x), calls), "torch", units=calls)

    providers = {"fastgen": own}
    if compiled:
        providers["torch.compile"] = inductor
    label = f"{streams} streams{' and noise' if noise else ''}"
    floor = streams * elements * dtype.itemsize / bandwidth
    bench.compare("kernels", label, shape, dtype, providers, floor)
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


def loops(bench: Bench) -> None:
    """Whole sampling loops, us per step; the network's own time is a row of its own."""
    schedule, steps = DiscreteVP.linear(), 3 if bench.quick else 20
    cases = []
    for name, (build, shape) in NETWORKS.items():
        if bench.quick and shape[0] > 16:
            shape = (16 if len(shape) == 2 else 2, *shape[1:])
        torch.manual_seed(0)
        net = build().to(bench.device).eval()
        cases.append((name, net, torch.randn(shape, device=bench.device)))
    plans = [
        fastgen.plan(solver, schedule, steps, timesteps="trailing")
        for solver in ("ddim", "dpmpp_2m", "ddpm")
    ]
    for name, net, x in cases:
        shape = tuple(x.shape)
        bench.compare("loops", f"{name}: network", shape, x.dtype, _network(bench, net, x, steps))
        for plan in plans:
            providers = _providers(bench, net, x, plan)
            bench.compare("loops", f"{name}: {plan.solver}", shape, x.dtype, providers)
    # What takes long to compile comes last.
    for name, net, x in cases:
        sampler = fastgen.Sampler(fastgen.Model(net, schedule, "noise"), plans[0])
        providers = dict(_fastgen(bench, sampler, x)) | dict(_compiled(bench, net, x, plans[0]))
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
    import diffusers

    name = {"ddim": "DDIM", "ddpm": "DDPM", "dpmpp_2m": "DPMSolverMultistep"}[solver]
    options = {} if solver == "dpmpp_2m" else {"clip_sample": False}
    scheduler = getattr(diffusers, f"{name}Scheduler")(timestep_spacing="trailing", **options)
    scheduler.set_timesteps(steps, device=x.device)

    def run() -> None:
        scheduler.set_timesteps(steps, device=x.device)
        state = x
        with torch.inference_mode():
            for t in scheduler.timesteps:
                output = net(state, (t / 1000).expand(x.shape[0]))
                state = scheduler.step(output, t, state, return_dict=False)[0]

    return Provider("", run, "diffusers", steps)


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


def main() -> None:
    """Run the suites and write the CSV."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu/gpu.csv"))
    parser.add_argument("--seconds", type=float, default=360.0, help="build no case after these")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does every line run?")
    parser.add_argument("--suite", action="append", choices=SUITES, help="all")
    arguments = parser.parse_args()
    bench = Bench(arguments.device, arguments.out, arguments.seconds, arguments.quick)
    chosen = arguments.suite or SUITES
    bandwidth = copies(bench)
    if "kernels" in chosen:
        whole, bench.until = bench.until, bench.until - 0.5 * arguments.seconds
        if chosen == ["kernels"]:
            bench.until = whole
        kernels(bench, bandwidth)
        bench.until = whole
    if "couplings" in chosen:
        couplings(bench)
    if "integrate" in chosen:
        # Ahead of the loops, whose compiled rows take what time is left.
        whole, bench.until = bench.until, min(bench.until, time.monotonic() + 40)
        integrate(bench)
        bench.until = whole
    if "loops" in chosen:
        loops(bench)
    print(f"{len(bench.found)} rows in {arguments.out}")


if __name__ == "__main__":
    main()
