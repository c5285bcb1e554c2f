"""Stochastic solvers beside torchsde: whole solves, and queries of the Brownian motion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import fastgen
from benchmarks.peers import installed
from benchmarks.problems.equations import GeometricBrownianMotion
from benchmarks.tools.harness import Case, Provider, measured
from benchmarks.tools.rows import Row, skipped
from fastgen.integrations import torchsde as drop_in

torchsde: Any = installed("torchsde")
SUITE = "sde"
STATE, STEPS, DYADIC = (256, 64), 1000, 1024
MOTION = (64, 3072)
QUERIES, FEW, TOGETHER = 64, 16, 16


def rows(quick: bool) -> Iterator[Row]:
    """The rows; without torchsde its own are skipped."""
    cases = [*solves(quick), adaptive(), *queries()]
    if torchsde is None:
        for case in cases:
            yield skipped(SUITE, case.name, "torchsde", case.shape, "torchsde is not installed")
    yield from measured(cases, quick)


def solves(quick: bool) -> Iterator[Case]:
    """Microseconds per step of whole solves."""
    known = (
        ("euler", "euler_maruyama", "ito"),
        ("milstein", "milstein", "ito"),
        ("srk", "srk", "ito"),
        ("heun", "heun", "stratonovich"),
        ("reversible_heun", "reversible_heun", "stratonovich"),
    )
    for theirs, name, sde_type in known[:1] if quick else known:
        providers = [Provider("fastgen", _ours(name, sde_type, STEPS, "draws"), units=STEPS)]
        brownian = _ours(name, sde_type, DYADIC, "brownian")
        providers.append(Provider("fastgen, path", brownian, units=DYADIC))
        if name not in ("milstein", "reversible_heun"):
            run = _ours(name, sde_type, STEPS, "draws", compile=True)
            providers.append(Provider("fastgen, compiled", run, units=STEPS, compared=False))
        if torchsde is not None:
            # As many steps: in shorter solves torchsde spends most time on its first queries.
            run = _theirs(theirs, sde_type, STEPS)
            providers.append(Provider("torchsde", run, "torchsde", STEPS))
        yield Case(SUITE, f"{name}, step", STATE, torch.float32, providers)


def adaptive() -> Case:
    """A whole solve by srk with steps of varying size, the drop-in's and torchsde's own.

    Both try each step once whole and once in halves, along a motion with space-time areas.
    """
    equation, y0 = GeometricBrownianMotion("ito"), torch.ones(STATE)
    ts = torch.tensor([0.0, 1.0])

    def run(kind: Any) -> Callable[[], Tensor]:
        @torch.no_grad()
        def solve() -> Tensor:
            motion = kind.BrownianInterval(
                0.0, 1.0, STATE, entropy=1, levy_area_approximation="space-time"
            )
            found: Tensor = kind.sdeint(
                equation, y0, ts, motion, "srk", adaptive=True, dt=1e-2, rtol=1e-3, atol=1e-3
            )
            return found

        return solve

    providers = [Provider("fastgen", run(drop_in))]
    if torchsde is not None:
        providers.append(Provider("torchsde", run(torchsde), "torchsde"))
    return Case(SUITE, "srk, adaptive, whole solve", STATE, torch.float32, providers)


def _ours(
    method: str, sde_type: str, steps: int, noise: str, compile: bool = False
) -> Callable[[], Tensor]:
    equation, y0 = GeometricBrownianMotion(sde_type), torch.ones(STATE)

    @torch.no_grad()
    def run() -> Tensor:
        return fastgen.sdeint(
            equation.f,
            equation.g,
            y0,
            [0.0, 1.0],
            method=method,
            sde_type=sde_type,
            steps=steps,
            noise=noise,
            seed=1,
            compile=compile,
        )

    return run


def _theirs(method: str, sde_type: str, steps: int) -> Callable[[], Tensor]:
    equation, y0, ts = (
        GeometricBrownianMotion(sde_type),
        torch.ones(STATE),
        torch.tensor([0.0, 1.0]),
    )

    @torch.no_grad()
    def run() -> Tensor:
        result: Tensor = torchsde.sdeint(equation, y0, ts, dt=1 / steps, method=method)
        return result

    return run


def queries() -> Iterator[Case]:
    """Microseconds per query of an increment, with a new motion each time.

    torchsde's default is a motion that depends on which queries were made, in which order; its
    halfway tree is the one like ours, of which any order gives the same. Both are resolved to
    2^-20 of the interval here; ours is to 2^-24 by default. Depth 7 is enough for sequences of
    steps of 2^-7 and more: no two times share a cell, so their increments are independent.
    "one normal field" draws as many normal numbers as a query has elements: what any motion spends
    on a query at least.
    """
    generator = torch.Generator().manual_seed(1)
    ends = torch.rand(QUERIES, 2, generator=generator, dtype=torch.float64).sort(1).values
    grid = torch.linspace(0, 1, QUERIES + 1, dtype=torch.float64)
    odd = torch.linspace(0, 1, QUERIES + 1, dtype=torch.float64) * 0.999
    for name, pairs in (
        ("increment at random", ends),
        ("increment in sequence", torch.stack([odd[:-1], odd[1:]], 1)),
        ("increment in sequence, dyadic", torch.stack([grid[:-1], grid[1:]], 1)),
    ):
        providers = [
            Provider("fastgen", _query(pairs), units=QUERIES),
            Provider("fastgen, depth 20", _query(pairs, 20), units=QUERIES),
        ]
        if "sequence" in name:
            providers.append(Provider("fastgen, depth 7", _query(pairs, 7), units=QUERIES))
            providers.append(Provider("fastgen, together", _query_together(pairs), units=QUERIES))
        providers.append(Provider("one normal field", lambda: fastgen.randn(MOTION, seed=1)))
        if torchsde is not None:
            providers.append(Provider("torchsde", _query_torchsde(pairs), "torchsde", QUERIES))
            few = pairs[:FEW]
            tree = _query_torchsde(few, halfway_tree=True, tol=2.0**-20)
            providers.append(Provider("torchsde, any order", tree, "torchsde", FEW))
        yield Case(SUITE, name, MOTION, torch.float32, providers)


def _query(pairs: Tensor, depth: int = 24) -> Callable[[], Any]:
    times = pairs.tolist()

    def run() -> None:
        path = fastgen.BrownianPath(MOTION, seed=1, depth=depth)
        for s, t in times:
            path(s, t)

    return run


def _query_together(pairs: Tensor) -> Callable[[], Any]:
    """Several steps by one call, as solvers ask for them; their ends in one order."""
    times = pairs.flatten().unique()

    def run() -> None:
        path = fastgen.BrownianPath(MOTION, seed=1)
        for first in range(0, len(times) - 1, TOGETHER):
            part = times[first : first + TOGETHER + 1]
            path.steps(part, torch.ones(len(part) - 1, dtype=torch.float64))

    return run


def _query_torchsde(pairs: Tensor, **options: Any) -> Callable[[], Any]:
    times = pairs.tolist()

    def run() -> None:
        motion = torchsde.BrownianInterval(0.0, 1.0, size=MOTION, entropy=1, **options)
        for s, t in times:
            motion(s, t)

    return run
