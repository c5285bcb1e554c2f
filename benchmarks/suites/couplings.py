"""Assignment solvers with the cost given, couplings end to end, ties, large problems, threads.

Sources are Gaussian; targets moons in two dimensions, else a mixture of ten Gaussians whose
spectrum falls as a power law. A peer's time is that of one call; costs of exact solvers must
agree to 1e-6 (else the peer's row is of metric "excess", its cost above the least). "product alone"
is x0 @ x1.T and nothing else: in many dimensions no pairing of float32 points can take less.
"""

from __future__ import annotations

import resource
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks.peers import assignment, installed
from benchmarks.problems.points import clouds
from benchmarks.tools.harness import alternate, seconds
from benchmarks.tools.rows import Row, recorded, row
from fastgen.common.threads import threads as on_threads
from fastgen.couplings import Assignment, assign

GRID = [
    (128, 2),
    (256, 784),
    (512, 3072),
    (1024, 2),
    (1024, 3072),
    (2048, 784),
    (4096, 2),
    (4096, 256),
]
# A kind of points between, for the solvers alone.
MIDDLE = [(256, 64), (512, 64), (1024, 64), (2048, 64)]
# Peers that take this long, in seconds, on a smaller case of the kind are not asked for more.
PATIENCE = 0.5


def done(case: str, shape: tuple[int, int]) -> bool:
    """Whether the run that goes on here has the case."""
    return recorded("couplings", case, "fastgen", shape)


def given(quick: bool) -> Iterator[Row]:
    """Time of the solver alone, on a float32 matrix of costs."""
    slow: dict[tuple[str, bool], float] = {}
    for n, d in GRID[:3] if quick else GRID + MIDDLE:
        if done("given", (n, d)):
            continue
        x0, x1 = clouds(n, d)
        costs = torch.cdist(x0, x1).square()
        least = assign(cost=costs)
        shape = (n, d)
        gap = float(least.gap) / float(least.cost)
        rows = [
            row(
                "couplings",
                "given",
                "fastgen",
                "fastgen-torch",
                shape,
                costs.dtype,
                "gap",
                "1",
                [gap],
            )
        ]
        runs: dict[str, Callable[[], object]] = {"fastgen": lambda c=costs: assign(cost=c)}
        packages = {"fastgen": "fastgen-torch"}
        for name, (package, solver) in assignment.solvers().items():
            if slow.get((name, d == 2), 0.0) > PATIENCE:
                continue
            solver(torch.eye(2))  # imports
            columns: list[np.ndarray] = []
            slow[name, d == 2] = seconds(lambda s=solver, out=columns, c=costs: out.append(s(c)))
            found = (
                costs.double()[torch.arange(n), torch.from_numpy(columns[0]).long()].sum().item()
            )
            excess = found / float(least.cost) - 1
            if not abs(excess) < 1e-6:
                rows.append(
                    row(
                        "couplings",
                        "given",
                        name,
                        package,
                        shape,
                        costs.dtype,
                        "excess",
                        "1",
                        [excess],
                    )
                )
            runs[name], packages[name] = (lambda s=solver, c=costs: s(c)), package
        for name, times in alternate(runs, 5 if quick else 9).items():
            package = packages[name]
            rows.append(
                row("couplings", "given", name, package, shape, costs.dtype, "time", "us", times)
            )
        yield from rows  # together: a run that goes on later has all of a case or nothing


def end_to_end(quick: bool) -> Iterator[Row]:
    """From two batches to paired batches; torchcfm's plan is exact up to POT's iteration cap."""
    peer = installed("torchcfm.optimal_transport")
    if peer is None:
        return
    sampler = peer.OTPlanSampler("exact")
    packages = {"fastgen": "fastgen-torch", "torchcfm": "torchcfm", "product alone": "torch"}
    for n, d in GRID[:3] if quick else GRID:
        if done("pairing", (n, d)):
            continue
        x0, x1 = clouds(n, d)
        runs: dict[str, Callable[[], object]] = {
            "fastgen": lambda a=x0, b=x1: b[assign(a, b).permutation],
            "torchcfm": lambda a=x0, b=x1: sampler.sample_plan(a, b),
        }
        if d > 2:
            runs["product alone"] = lambda a=x0, b=x1: a @ b.T
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            measured = alternate(runs, 3 if quick else 7)
        for name, times in measured.items():
            package = packages[name]
            yield row("couplings", "pairing", name, package, (n, d), x0.dtype, "time", "us", times)


def ties(quick: bool) -> Iterator[Row]:
    """Heavy ties and near ties beside the generic case of the size."""
    n = 1024 if quick else 4096
    side = torch.arange(n**0.5)
    for d in (2, 64):
        if done("generic", (n, d)):
            continue
        x0, generic = clouds(n, d)
        four = generic[:4].repeat(n // 4, 1)
        noise = torch.randn(four.shape, generator=torch.Generator().manual_seed(1))
        narrow = four + 1e-3 * noise * generic.std()
        cases = {"generic": generic, "four targets": four, "four narrow clusters": narrow}
        if d == 2:
            cases["lattice"] = torch.cartesian_prod(side, side) / n**0.5 * 4 - 2
        runs: dict[str, Callable[[], object]]
        runs = {name: (lambda a=x0, b=x1: assign(a, b)) for name, x1 in cases.items()}
        for name, times in alternate(runs, 5).items():
            yield row(
                "couplings", name, "fastgen", "fastgen-torch", (n, d), x0.dtype, "time", "us", times
            )


def large(quick: bool) -> Iterator[Row]:
    """Sixteen thousand points, and the most memory used until then, in bytes."""
    for d in (2,) if quick else (2, 256):
        n = 4096 if quick else 16384
        if done("large", (n, d)):
            continue
        x0, x1 = clouds(n, d)
        found: list[Assignment] = []
        times = [seconds(lambda a=x0, b=x1, out=found: out.append(assign(a, b))) * 1e6]
        shape = tuple(x0.shape)
        gap = float(found[0].gap) / float(found[0].cost)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
        for metric, unit, values in (
            ("time", "us", times),
            ("gap", "1", [gap]),
            ("memory", "B", [memory]),
        ):
            yield row(
                "couplings",
                "large",
                "fastgen",
                "fastgen-torch",
                shape,
                x0.dtype,
                metric,
                unit,
                values,
            )


def threads(quick: bool) -> Iterator[Row]:
    """One problem on one and on two threads."""
    for n, d in ((2048, 2),) if quick else ((2048, 2), (2048, 784), (4096, 256)):
        if done("1 thread", (n, d)):
            continue
        x0, x1 = clouds(n, d)
        costs = torch.cdist(x0, x1).square()
        runs: dict[str, Callable[[], object]] = {
            f"{k} thread{'s' if k > 1 else ''}": (
                lambda k=k, a=x0, b=x1, c=costs: (
                    assign(a, b, threads=k) if a.shape[1] == 2 else assign(cost=c, threads=k)
                )
            )
            for k in (1, 2)
        }
        for case, times in alternate(runs, 9).items():
            yield row(
                "couplings",
                case,
                "fastgen",
                "fastgen-torch",
                (n, d),
                x0.dtype,
                "time",
                "us",
                times,
                threads=int(case[0]),
            )


def rows(quick: bool) -> Iterator[Row]:
    """All rows of the suite."""
    with on_threads(1):
        # Memory is of the process so far: the large case comes first.
        for part in (large, given, end_to_end, ties, threads):
            yield from part(quick)
