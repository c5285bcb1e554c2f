"""What takes many processes: entropic pairs of a million points, killed processes, slow writing.

"pairs of points": a sweep of `LargeCoupling` (all pairs twice) on two processes of one thread each
that have half of the points, in CPU time of the one that took more, since the cores have other
work. What stands beside "extrapolated" was not run: it is the time of a pair at the largest number
of points that was, times the number of pairs. "to a plan" is a whole run.

"killed processes": what `tests/generation/kills.py` says of a set drawn by 1 to 3 processes that
are killed, at random, a hundred times. "a lost process" is one of two, killed at a random time: by
how much later than without its help the set is whole, in shards, with a network that sleeps.

"a network elsewhere" sleeps too, as if a GPU had it: what is spent on PNG files is then on top,
unless it is done meanwhile.
"""

from __future__ import annotations

import json
import math
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import fastgen
from benchmarks.tools.rows import Row, recorded, row, show_progress
from fastgen.common.threads import threads
from fastgen.couplings import LargeCoupling
from fastgen.couplings.scattered import Scattered, ScatteredSolver
from fastgen.generation import Generated, Place
from fastgen.generation.run import begun, completed, draw_shard, made_task

ROOT = Path(__file__).parents[2]
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
MILLION = 1_000_000
# Points of both sets, dimension, and whether a million by a million are extrapolated from that.
SWEEPS = [
    (100_000, 100_000, 2, False),
    (100_000, 100_000, 16, True),
    (MILLION, 100_000, 2, True),
]
PLANS = [(MILLION, 4096, 2)]
QUICK = [(10_000, 10_000, 2, True)]


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    sweeps, plans = (QUICK, []) if quick else (SWEEPS, PLANS)
    yield from kills(10 if quick else 100)
    if not recorded("scale", "a lost process", "1 of 2", (SHARDS * BATCHES,)):
        yield from lost(2 if quick else 12)
    if not recorded("scale", "a network elsewhere, PNG", "written between", PICTURES):
        yield from pictures(1 if quick else 3)
    for done, (n, m, d, far) in enumerate(sweeps):
        show_progress(done + 3, len(sweeps) + 4)
        if not recorded("scale", "pairs of points", "2 processes", (n, m, d)):
            yield from sweep(n, m, d, far)
    for n, m, d in plans:
        if not recorded("scale", "pairs of points, to a plan", "2 processes", (n, m, d)):
            yield from plan(n, m, d)


def sweep(n: int, m: int, d: int, extrapolated: bool) -> Iterator[Row]:
    """One sweep, and what a million points would take."""
    found = _shared(_swept, n, m, d)
    busy = max(part["seconds"] for part in found)
    own = "pairs of points", "2 processes", (n, m, d)
    yield _row(*own, "a sweep", "s", [busy])
    yield _row(*own, "pairs a second and process", "1/s", [n * m / busy])
    yield _row(*own, "peak of a process", "MiB", [max(part["peak"] for part in found)])
    if extrapolated:
        far = busy * (MILLION / n) * (MILLION / m)
        yield _row(
            "pairs of points, extrapolated", "2 processes", (MILLION, MILLION, d), "a sweep", "s",
            [far], note=f"from {n} x {m}",
        )  # fmt: skip


def plan(n: int, m: int, d: int) -> Iterator[Row]:
    """Partners of all points, and whether one process finds the same."""
    found = _shared(_paired, n, m, d)
    own = "pairs of points, to a plan", "2 processes", (n, m, d)
    yield _row(*own, "time", "s", [max(part["seconds"] for part in found)])
    yield _row(*own, "sweeps", "", [found[0]["iterations"]])
    yield _row(*own, "marginal error", "", [found[0]["error"]])
    yield _row(*own, "peak of a process", "MiB", [max(part["peak"] for part in found)])
    alone = _shared(_paired, n, m, d, world=1)[0]
    differing = int((alone["partner"] != found[0]["partner"]).sum())
    differing += sum(int((part["partner"] != found[0]["partner"]).sum()) for part in found)
    yield _row(*own, "partners that differ from one process's", "", [differing])


def _points(name: int, first: int, last: int, d: int) -> torch.Tensor:
    """Points of a set by their numbers: the same whatever the processes."""
    ids = torch.arange(first, last, device="cpu")
    return fastgen.randn((last - first, d), seed=name, sample_ids=ids) * (1 + name) + name


def _parts(rank: int, world: int, n: int, m: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    own = [(k * rank // world, k * (rank + 1) // world) for k in (n, m)]
    return _points(0, *own[0], d), _points(1, *own[1], d)


def _swept(rank: int, world: int, n: int, m: int, d: int) -> dict[str, Any]:
    group: Any = dist.group.WORLD
    x0, x1 = _parts(rank, world, n, m, d)
    a, b = Scattered("x0", x0, 16384, group), Scattered("x1", x1, 16384, group)
    a.length = b.length = math.sqrt(a.squares + b.squares)
    solver = ScatteredSolver(a, b, 0.05, None)
    start = -a.norms()
    begin = time.process_time()
    sums = solver.log_sum_columns(start)
    solver.log_sum_rows(-0.05 * sums)
    return {"seconds": time.process_time() - begin}


def _paired(rank: int, world: int, n: int, m: int, d: int) -> dict[str, Any]:
    x0, x1 = _parts(rank, world, n, m, d)
    begin = time.process_time()
    found = LargeCoupling.pair(x0, x1, 0.05, group=dist.group.WORLD)
    spent = time.process_time() - begin
    told = {"partner": found.partner, "iterations": found.iterations}
    return {"seconds": spent, "error": found.marginal_error, **told}


def _shared(work: Any, n: int, m: int, d: int, world: int = 2) -> list[dict[str, Any]]:
    """What processes with a part of the points each found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        children = [
            context.Process(target=_child, args=(work, rank, world, (n, m, d), port, folder))
            for rank in range(world)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join()
        return [torch.load(f"{folder}/{rank}") for rank in range(world)]


def _child(
    work: Any, rank: int, world: int, sizes: tuple[int, int, int], port: int, folder: str
) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", address, rank=rank, world_size=world)
    found = work(rank, world, *sizes)
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    torch.save(found, f"{folder}/{rank}")
    dist.destroy_process_group()


def kills(count: int) -> Iterator[Row]:
    """What a hundred kills and other numbers of processes leave."""
    case = f"{count} killed processes"
    if recorded("scale", case, "1 to 3 processes", (230, 1, 4, 4)):
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        command = [sys.executable, "-m", "tests.generation.kills", folder, str(count), "1"]
        own = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    for metric, value in json.loads(done.stdout).items():
        yield _row(case, "1 to 3 processes", (230, 1, 4, 4), metric, "", [value])


SHAPE, SHARDS, BATCHES, STEPS, NAP = (2,), 12, 8, 4, 0.01


def lost(rounds: int) -> Iterator[Row]:
    """How much later a set is whole when one of two processes is killed."""
    found = []
    chance = random.Random(0)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            found.append(_lost(folder, chance.uniform(0.1, 0.6)))
    yield _row("a lost process", "1 of 2", (SHARDS * BATCHES,), "later, in shards", "", found)


def _lost(folder: str, share: float) -> float:
    """Shards' worth of time; share: of the set that one process has drawn at the kill."""
    context = get_context("fork")
    counts = [context.RawValue("q", 0) for _ in range(2)]
    children = [context.Process(target=_asleep, args=(folder, r, counts[r])) for r in range(2)]
    calls, shard = SHARDS * BATCHES * STEPS, BATCHES * STEPS
    for child in children:
        child.start()
    while not all(count.value for count in counts):
        time.sleep(0.001)
    first, known = time.monotonic(), counts[0].value
    while counts[1].value < share * calls / 2:
        time.sleep(0.001)
    os.kill(int(children[1].pid or 0), signal.SIGKILL)
    begin, before = time.monotonic(), [count.value for count in counts]
    pace = (begin - first) / (before[0] - known)
    while not Generated(folder).manifest["complete"]:
        time.sleep(0.002)
    spent = time.monotonic() - begin
    for child in children:
        child.join()
    # Of one process: the calls that nobody had made, at the rate at which it makes calls.
    return (spent / pace - (calls - sum(before))) / shard


def _asleep(folder: str, rank: int, count: Any) -> None:
    torch.set_num_threads(1)
    fastgen.generate(
        _sampler(_Asleep(count)), SHAPE, count=SHARDS * BATCHES, out=folder, shard=BATCHES, batch=1,
        place=Place(rank, 2),
    )  # fmt: skip


class _Asleep(torch.nn.Module):
    """A network that takes its time; which count it adds to is no part of what it is."""

    def __init__(self, count: Any) -> None:
        super().__init__()
        self._count = count

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        time.sleep(NAP)
        self._count.value += 1
        return -x


def _sampler(net: Any) -> fastgen.Sampler:
    schedule = fastgen.schedules.Rectified()
    model = fastgen.Model(net, schedule, "velocity", data_at=1)
    return fastgen.Sampler(model, fastgen.plan("euler", schedule, STEPS))


PICTURES = (320, 3, 128, 128)


def pictures(rounds: int) -> Iterator[Row]:
    """Tars of PNG files while the network is elsewhere, and between its calls."""
    (count, *shape), shard = PICTURES, 32

    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        time.sleep(0.2)
        return -x

    sampler = _sampler(net)
    options: dict[str, Any] = {"count": count, "shard": shard, "format": "webdataset"}

    def bare() -> None:
        for first in range(0, count, shard):
            sampler((shard, *shape), sample_ids=range(first, first + shard))

    def meanwhile(folder: str) -> None:
        fastgen.generate(sampler, shape, out=folder, batch=shard, place=Place(), **options)

    def between(folder: str) -> None:
        task = made_task(
            sampler, shape, seed=0, batch=shard, dtype=None, limits=(-1, 1), labels=None,
            label_name="labels", net_kwargs=None, decode=None, features=None, **options,
        )  # fmt: skip
        place, manifest = begun(task, folder, "webdataset")
        for k in range(task.layout.shards):
            draw_shard(task, place, k)
        completed(task, place, manifest)

    found: dict[str, list[float]] = {"written meanwhile": [], "written between": []}
    with threads(1):
        for _ in range(rounds):
            begin = time.perf_counter()
            bare()
            alone = time.perf_counter() - begin
            for way, run in zip(found, (meanwhile, between), strict=True):
                with tempfile.TemporaryDirectory() as folder:
                    begin = time.perf_counter()
                    run(folder)
                    found[way].append((time.perf_counter() - begin) / alone - 1)
    for way, ratios in found.items():
        yield _row("a network elsewhere, PNG", way, PICTURES, "overhead", "", ratios)


def _row(
    case: str,
    provider: str,
    shape: tuple[int, ...],
    metric: str,
    unit: str,
    values: list[float],
    note: str = "",
) -> Row:
    own = "scale", case, provider, "fastgen-torch", shape, torch.float32
    return row(*own, metric, unit, values, note=note)
