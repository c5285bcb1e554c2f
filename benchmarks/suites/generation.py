"""Sets of samples in folders: what it takes beside a bare loop, and two processes beside one.

"bare loop" draws the same batches and throws them away. "generate" writes shards, checksums,
records and a manifest, into memory (/dev/shm), so that no disk is measured. Runs alternate, and a
ratio is of neighbours. The processes are started, and have drawn a batch, before the clock is.
Where other work takes cores away, "by CPU time" is what counts: that of one process beside that of
the one of two that took more.
Networks: a UNet of 32 x 32 pixels that dominates, and an MLP in the plane, which costs little.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import fastgen
from benchmarks.tools.harness import seconds
from benchmarks.tools.rows import Row, row, show_progress
from fastgen.common.threads import threads
from fastgen.generation import Features, Place
from fastgen.networks import MLP, UNet

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
STEPS, ROUNDS = 8, 7


def sampler(name: str) -> tuple[fastgen.Sampler, tuple[int, ...], int, int]:
    """A sampler, the shape of a state, a count of samples and the batch."""
    torch.manual_seed(0)
    schedule = fastgen.schedules.Rectified()
    net: Any = UNet(3, width=16) if name == "unet" else MLP((2,), (128, 128))
    model = fastgen.Model(net.eval(), schedule, "velocity", data_at=1)
    made = fastgen.Sampler(model, fastgen.plan("dpmpp_2m", schedule, STEPS))
    return (made, (3, 32, 32), 64, 4) if name == "unet" else (made, (2,), 20_000, 500)


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    rounds = 2 if quick else ROUNDS
    for done, name in enumerate(("unet", "mlp")):
        show_progress(done, 3)
        yield from beside_a_loop(name, rounds)
    show_progress(2, 3)
    yield from processes("unet", 2 if quick else 5)


def beside_a_loop(name: str, rounds: int) -> Iterator[Row]:
    """Seconds for a set, and for the same calls alone."""
    made, shape, count, batch = sampler(name)

    def bare() -> None:
        for first in range(0, count, batch):
            made((batch, *shape), sample_ids=range(first, first + batch))

    def whole(features: Features | None = None) -> None:
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            fastgen.generate(
                made, shape, count=count, out=folder, batch=batch, shard=count // 4,
                features=features, place=Place(),
            )  # fmt: skip

    ways = {"bare loop": bare, "generate": whole}
    if name == "mlp":
        ways["generate, statistics"] = lambda: whole(Features())
    with threads(1):
        for run in ways.values():
            run()
        times: dict[str, list[float]] = {way: [] for way in ways}
        busy: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, run in ways.items():
                begin = time.process_time()
                times[way].append(seconds(run))
                busy[way].append(time.process_time() - begin)
    for provider, found in times.items():
        yield _row(name, provider, (count, *shape), "seconds", "s", found)
        if provider != "bare loop":
            ratios = [a / b - 1 for a, b in zip(found, times["bare loop"], strict=True)]
            yield _row(name, provider, (count, *shape), "overhead", "", ratios)
            ratios = [a / b - 1 for a, b in zip(busy[provider], busy["bare loop"], strict=True)]
            yield _row(name, provider, (count, *shape), "overhead by CPU time", "", ratios)


def processes(name: str, rounds: int) -> Iterator[Row]:
    """Samples a second by one and by two processes, one thread each."""
    _, shape, count, _ = sampler(name)
    rates: dict[int, list[float]] = {1: [], 2: []}
    busy: dict[int, list[float]] = {1: [], 2: []}
    with Pair(name) as pair:
        for _ in range(rounds):
            for world in rates:
                wall, most = pair.run(world)
                rates[world].append(count / wall)
                busy[world].append(most)
    for world, found in rates.items():
        provider = f"{world} process" + ("es" if world > 1 else "")
        yield _row(name, provider, (count, *shape), "samples a second", "1/s", found)
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    yield _row(name, "2 processes", (count, *shape), "of one process's rate", "", ratios)
    free = [one / two for one, two in zip(busy[1], busy[2], strict=True)]
    yield _row(name, "2 processes", (count, *shape), "the same by CPU time", "", free)


class Pair:
    """Two processes that are ready to draw."""

    def __init__(self, name: str) -> None:
        context = get_context("spawn")
        pipes = [context.Pipe() for _ in range(2)]
        self._ends = [ours for ours, _ in pipes]
        self._children = [
            context.Process(target=_drawing, args=(name, theirs)) for _, theirs in pipes
        ]

    def __enter__(self) -> Pair:
        for child in self._children:
            child.start()
        for end in self._ends:
            end.recv()
        return self

    def __exit__(self, *_: object) -> None:
        for end in self._ends:
            end.send(None)
        for child in self._children:
            child.join()

    def run(self, world: int) -> tuple[float, float]:
        """Seconds until a new set is whole, and those of CPU of the process that took most."""
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            begin = time.perf_counter()
            for rank, end in enumerate(self._ends[:world]):
                end.send((folder, rank, world))
            most = max(end.recv() for end in self._ends[:world])
            return time.perf_counter() - begin, most


def _drawing(name: str, end: Any) -> None:
    torch.set_num_threads(1)
    made, shape, count, batch = sampler(name)
    made((batch, *shape))
    end.send("ready")
    while (told := end.recv()) is not None:
        folder, rank, world = told
        begin = time.process_time()
        fastgen.generate(
            made,
            shape,
            count=count,
            out=folder,
            batch=batch,
            shard=2 * batch,
            place=Place(rank, world),
        )
        end.send(time.process_time() - begin)


def _row(
    case: str, provider: str, shape: tuple[int, ...], metric: str, unit: str, values: list[float]
) -> Row:
    package = "torch" if provider == "bare loop" else "fastgen-torch"
    own = "generation", case, provider, package, shape, torch.float32
    return row(*own, metric, unit, values)
