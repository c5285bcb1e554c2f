"""One device, one file of rows, one deadline."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.tools.harness import Provider
from benchmarks.tools.rows import Row, read, row, write

Run = Callable[[], object]


class Bench:
    """One device, one file, one deadline."""

    def __init__(
        self, device: str, out: Path, seconds: float, quick: bool, resume: bool = False
    ) -> None:
        self.device, self.out, self.quick = torch.device(device), out, quick
        self.until = time.monotonic() + seconds
        self.rounds = 3 if quick else 10
        self.slice = 0.01 if quick else 0.05  # seconds of one timing
        # Of an earlier run all that was measured; what was left out is tried again.
        earlier = read(out) if resume and out.exists() else []
        self.found: list[Row] = [r for r in earlier if r.metric != "skipped"]

    @staticmethod
    def _key(row: Row) -> tuple[str, ...]:
        return row.suite, row.case, row.provider, row.shape, row.dtype

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
        sizes = "x".join(map(str, shape))
        kind = str(dtype).removeprefix("torch.")
        medians = {
            r.provider: r.median
            for r in self.found
            if self._key(r) == (suite, case, r.provider, sizes, kind) and r.metric == "time"
        }
        for name, build in providers.items():
            if name in medians:
                continue
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
