"""Fair timing: providers alternate in one run and are checked before they are timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.tools.rows import Row, recorded, row, show_progress
from fastgen.common.threads import threads

# Calls that take less, in seconds, are repeated by `alternate` for as long, so that no first call
# is timed.
SHORTEST = 0.01


@dataclass(frozen=True)
class Provider:
    """One way to do a case's work.

    run does it once and returns the result, or None where there is nothing to compare; package
    is the distribution whose version the row names; units: how many units (steps, say) one call
    does: times are per unit; compared: whether its result must be the first provider's.
    """

    name: str
    run: Callable[[], Any]  # of a tensor, where results are compared
    package: str = "fastgen-torch"
    units: int = 1
    compared: bool = True


@dataclass(frozen=True)
class Case:
    """The same work by several providers; the first is the one the others are checked against.

    tolerance: largest difference from the first provider's result, relative to its largest
    value; None where results are random and differ. floor: fewest bytes per unit.
    """

    suite: str
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    providers: list[Provider]
    tolerance: float | None = None
    threads: int = 1
    floor_bytes: int = 0


def copy_bandwidth(elements: int = 2**24) -> float:
    """Bytes per microsecond that a copy of float32 reads and writes, one thread, best of 20."""
    source, target = torch.ones(elements), torch.empty(elements)
    with threads(1):
        best = min(seconds(lambda: target.copy_(source)) for _ in range(20))
    return 8 * elements / best / 1e6


def seconds(run: Callable[[], object], calls: int = 1) -> float:
    """Of so many calls in a row, by the wall."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - start


def check(case: Case) -> None:
    """Refuse to time a provider that computes something else.

    Raises:
        AssertionError: naming the provider and its deviation.
    """
    if case.tolerance is None:
        return
    expected = case.providers[0].run()
    assert expected is not None
    expected = expected.clone()
    scale = expected.abs().max().item()
    for provider in [p for p in case.providers[1:] if p.compared]:
        result = provider.run()
        assert result is not None, f"{case.name}: {provider.name} returns nothing to check"
        deviation = (result - expected).abs().max().item() / scale
        assert deviation <= case.tolerance, f"{case.name}: {provider.name} is off by {deviation}"


def measure(case: Case, bandwidth: float, rounds: int = 30, budget: float = 4.0) -> list[Row]:
    """Check, warm up, then time all providers in alternation.

    Args:
        case: the work.
        bandwidth: bytes per microsecond, for the floor.
        rounds: how often each provider is timed.
        budget: seconds for one provider, which sets the number of calls per timing.
    """
    with threads(case.threads):
        check(case)
        calls = {}
        for provider in case.providers:
            provider.run()
            once = min(seconds(provider.run) for _ in range(3))
            calls[provider.name] = max(1, min(1000, int(budget / rounds / max(once, 1e-7))))
        times: dict[str, list[float]] = {p.name: [] for p in case.providers}
        for _ in range(rounds):
            for p in case.providers:
                each = seconds(p.run, calls[p.name]) / calls[p.name] / p.units
                times[p.name].append(each * 1e6)
    return [
        row(
            case.suite,
            case.name,
            p.name,
            p.package,
            case.shape,
            case.dtype,
            "time",
            "us",
            times[p.name],
            threads=case.threads,
            floor=case.floor_bytes / bandwidth,
        )
        for p in case.providers
    ]


def measured(cases: list[Case], quick: bool) -> Iterator[Row]:
    """The rows of timed cases that the journal does not have."""
    bandwidth = copy_bandwidth()
    for done, case in enumerate(cases):
        show_progress(done, len(cases))
        if not all(recorded(case.suite, case.name, p.name, case.shape) for p in case.providers):
            yield from measure(case, bandwidth, *((10, 0.25) if quick else (30, 3.0)))
    show_progress(len(cases), len(cases))


def alternate(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Microseconds a call of each, in turns; slow ones fewer times."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    calls = {}
    for name, run in runs.items():
        first = seconds(run)
        calls[name] = max(1, int(SHORTEST / first))
        if first > 0.5:
            times[name].append(first * 1e6)
    for turn in range(rounds):
        for name in runs:
            if not times[name] or (times[name][0] < 2e6 and (turn == 0 or times[name][0] < 5e5)):
                times[name].append(seconds(runs[name], calls[name]) / calls[name] * 1e6)
    return times
