"""The part of benchmarks.gpu that integrates: what the suites ode and sde have, on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

import fastgen
from benchmarks.gpu.bench import Bench
from benchmarks.problems.equations import TOLERANCE, GeometricBrownianMotion, van_der_pol
from benchmarks.problems.networks import Velocity
from benchmarks.tools.harness import Provider
from fastgen.schedules import Rectified

SUITE = "ode"


def integrate(bench: Bench) -> None:
    """Dopri5 eager and recorded, a CNF's samples and likelihoods, SDEs and Brownian queries."""
    _van_der_pol(bench)
    _flow(bench)
    _stochastic(bench)


def _van_der_pol(bench: Bench) -> None:
    """Microseconds per attempted step, the vector field's three kernels included."""
    f, points = van_der_pol(2.0), 20 if bench.quick else 200
    for batch in (16,) if bench.quick else (256, 65536):
        generator = torch.Generator().manual_seed(0)
        y0 = torch.randn(batch, 2, generator=generator).to(bench.device)
        t = torch.linspace(0, 10, points, device=bench.device)

        def own(y0: Tensor = y0, t: Tensor = t, **options: Any) -> Provider:
            def run() -> Any:
                return fastgen.odeint(f, y0, t, return_solution=True, **TOLERANCE, **options)

            with torch.no_grad():
                stats = run().stats
            steps = int((stats.accepted + stats.rejected).max())
            return Provider("", torch.no_grad()(run), units=steps)

        def peer(y0: Tensor = y0, t: Tensor = t) -> Provider:
            from torchdiffeq import odeint

            calls: list[None] = []

            def counted(time: Tensor, y: Tensor) -> Tensor:
                calls.append(None)
                return f(time, y)

            odeint(counted, y0, t, method="dopri5", **TOLERANCE)
            run = torch.no_grad()(lambda: odeint(f, y0, t, method="dopri5", **TOLERANCE))
            return Provider("", run, "torchdiffeq", (len(calls) - 2) // 6)

        providers: dict[str, Callable[[], Provider]] = {
            "fastgen": own,
            "fastgen captured": lambda own=own: own(capture=True),
            "fastgen, joint steps": lambda own=own: own(step="joint"),
            "torchdiffeq": peer,
        }
        bench.compare(SUITE, "dopri5 step, van der pol", (batch, 2), torch.float32, providers)


def _flow(bench: Bench) -> None:
    """Whole solves of a network's flow; fastgen at the tolerance whose samples are as exact."""
    torch.manual_seed(0)
    net = Velocity().requires_grad_(False).to(bench.device)
    model = fastgen.Model(net, Rectified(), "velocity")
    z = torch.randn(64 if bench.quick else 512, 2, device=bench.device)
    options: dict[str, Any] = {"rtol": 5e-5, "atol": 5e-5}

    def torchdiffeq() -> Provider:
        from torchdiffeq import odeint

        t = torch.tensor([1.0, 0.0], device=bench.device)

        def field(t: Tensor, x: Tensor) -> Tensor:
            return net(x, t.expand(len(x)))

        def run() -> Tensor:
            with torch.no_grad():
                end: Tensor = odeint(field, z, t, rtol=1e-6, atol=1e-6, method="dopri5")[-1]
                return end

        return Provider("", run, "torchdiffeq")

    samples: dict[str, Callable[[], Provider]] = {
        "fastgen": lambda: Provider(
            "", lambda: fastgen.sample(model, z, solver="dopri5", **options)
        ),
        "torchdiffeq": torchdiffeq,
    }
    bench.compare(SUITE, "cnf samples", tuple(z.shape), z.dtype, samples)
    likelihoods = {
        "fastgen": lambda: Provider(
            "", lambda: fastgen.log_likelihood(model, z, divergence="hutchinson", **options)
        )
    }
    bench.compare(SUITE, "cnf likelihood", tuple(z.shape), z.dtype, likelihoods)


def _stochastic(bench: Bench) -> None:
    """Microseconds per step, and per query of a Brownian increment."""
    equation, steps = GeometricBrownianMotion(), 20 if bench.quick else 1000
    y0 = torch.ones(256, 64, device=bench.device)

    def own(noise: str) -> Provider:
        def run() -> Tensor:
            with torch.no_grad():
                return fastgen.sdeint(
                    equation.f, equation.g, y0, [0.0, 1.0], method="euler_maruyama", steps=steps,
                    noise=noise, seed=1,
                )  # fmt: skip

        return Provider("", run, units=steps)

    def peer() -> Provider:
        import torchsde

        ts = torch.tensor([0.0, 1.0], device=bench.device)

        def run() -> Tensor:
            with torch.no_grad():
                end: Tensor = torchsde.sdeint(equation, y0, ts, dt=1 / steps, method="euler")
                return end

        return Provider("", run, "torchsde", steps)

    solves: dict[str, Callable[[], Provider]] = {
        "fastgen": lambda: own("draws"),
        "fastgen, path": lambda: own("brownian"),
        "torchsde": peer,
    }
    bench.compare(SUITE, "euler_maruyama, step", (256, 64), torch.float32, solves)

    shape, times = (64, 3072), torch.linspace(0, 0.999, 65).tolist()

    def ours() -> Provider:
        def run() -> None:
            path = fastgen.BrownianPath(shape, seed=1, device=bench.device)
            for s, t in pairwise(times):
                path(s, t)

        return Provider("", run, units=len(times) - 1)

    def theirs() -> Provider:
        import torchsde

        def run() -> None:
            path = torchsde.BrownianInterval(0.0, 1.0, size=shape, device=bench.device)
            for s, t in pairwise(times):
                path(s, t)

        return Provider("", run, "torchsde", len(times) - 1)

    queries = {"fastgen": ours, "torchsde": theirs}
    bench.compare(SUITE, "increment in sequence", shape, torch.float32, queries)
