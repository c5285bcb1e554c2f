"""Assignment solvers with the cost given, couplings end to end, ties, large problems, threads.

Sources are Gaussian; targets moons in two dimensions, else a mixture of ten Gaussians whose
spectrum falls as a power law. A peer's time is that of one call; costs of exact solvers must
agree to 1e-6 (else the peer's row is of metric "excess", its cost above the least). "product alone"
is x0 @ x1.T and nothing else: in many dimensions no pairing of float32 points can take less.
"""

from __future__ import annotations

import importlib
import importlib.util
import resource
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.harness import Row, recorded, row
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
# Calls that take less, in seconds, are repeated for as long, so that no first call is timed.
SHORTEST = 0.01

Solver = Callable[[Tensor], np.ndarray]


def clouds(n: int, d: int) -> tuple[Tensor, Tensor]:
    """The case's points [n, d], float32."""
    g = np.random.default_rng(n + d)
    x0 = g.normal(size=(n, d))
    if d == 2:
        angle, upper = g.random(n) * np.pi, g.random(n) < 0.5
        x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
        y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
        x1 = (np.stack([x, y], 1) + 0.05 * g.normal(size=(n, 2))) * 2 - 1
    else:
        spectrum = np.arange(1, d + 1) ** -0.5
        means = g.normal(size=(10, d)) * 2 * spectrum
        x1 = means[g.integers(0, 10, n)] + g.normal(size=(n, d)) * spectrum
    return torch.tensor(x0, dtype=torch.float32), torch.tensor(x1, dtype=torch.float32)


def peers() -> dict[str, tuple[str, Solver]]:
    """Those installed: name, distribution, and a function from costs to the columns of rows."""

    def scipy(costs: Tensor) -> np.ndarray:
        return importlib.import_module("scipy.optimize").linear_sum_assignment(costs.numpy())[1]

    def lap(costs: Tensor) -> np.ndarray:
        return importlib.import_module("lap").lapjv(costs.numpy())[1]

    def lapjv(costs: Tensor) -> np.ndarray:
        return importlib.import_module("lapjv").lapjv(costs.numpy())[0]

    def pot(costs: Tensor) -> np.ndarray:
        uniform = np.full(len(costs), 1 / len(costs))
        plan = importlib.import_module("ot").emd(uniform, uniform, costs.double().numpy(), 10**8)
        return plan.argmax(1)

    known = {
        "scipy": ("scipy", "scipy", scipy),
        "lap": ("lap", "lap", lap),
        "lapjv": ("lapjv", "lapjv", lapjv),
        "POT": ("ot", "POT", pot),
    }
    return {
        name: (package, solver)
        for name, (module, package, solver) in known.items()
        if importlib.util.find_spec(module)
    }


def seconds(run: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def alternate(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Microseconds a call of each, in turns; slow ones fewer times."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    calls = {}
    for name, run in runs.items():
        first = seconds(run)
        calls[name] = max(1, int(SHORTEST / first))
        if first > 0.5:
            times[name].append(first * 1e6)

    def repeated(name: str) -> None:
        for _ in range(calls[name]):
            runs[name]()

    for turn in range(rounds):
        for name in runs:
            if not times[name] or (times[name][0] < 2e6 and (turn == 0 or times[name][0] < 5e5)):
                times[name].append(seconds(lambda name=name: repeated(name)) / calls[name] * 1e6)
    return times


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
        for name, (package, solver) in peers().items():
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
    if importlib.util.find_spec("torchcfm") is None:
        return
    sampler = importlib.import_module("torchcfm.optimal_transport").OTPlanSampler("exact")
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
        runs = {
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
    with harness.threads(1):
        # Memory is of the process so far: the large case comes first.
        for part in (large, given, end_to_end, ties, threads):
            yield from part(quick)
