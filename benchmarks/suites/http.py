"""Samples over HTTP beside the same batch in one process: latencies and throughput.

A server process (`fastgen serve`, uvicorn) with 16 rows; 1, 8 and 64 clients of this process, each
with a connection of its own to 127.0.0.1, ask for one sample after another. Both processes have one
thread and share two cores with other work. "in process" is the batch alone, kept full by a loop.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import fastgen
from benchmarks.tools.rows import Row, row, show_progress, skipped
from fastgen.networks import UNet

SHAPE, ROWS, STEPS, CLIENTS = (1, 16, 16), 16, 10, (1, 8, 64)
ROOT = Path(__file__).parents[2]


def model() -> fastgen.Model:
    """What is served; the server makes it too."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return fastgen.Model(UNet(1, width=16).eval(), fastgen.schedules.Rectified(), "velocity")


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    try:
        import prometheus_client
        import starlette
        import uvicorn
    except ImportError as error:
        yield skipped("http", "one sample a request", "fastgen serve", SHAPE, str(error))
        return
    del prometheus_client, starlette, uvicorn
    count, rounds = (64, 1) if quick else (192, 4)
    alone: list[float] = []
    rates: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
    spent: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
    with Server() as port:
        for done in range(rounds):
            show_progress(done, rounds)
            alone.append(in_process(count))
            for clients in CLIENTS:
                asked = count // 8 if clients == 1 else count
                times, rate = asyncio.run(load(port, clients, asked))
                rates[clients].append(rate)
                spent[clients] += times
    yield _row("in process", "samples a second", "1/s", alone)
    for clients in CLIENTS:
        provider = f"{clients} client" + ("s" if clients > 1 else "")
        found = sorted(1e3 * s for s in spent[clients])
        yield _row(provider, "p50", "ms", [found[len(found) // 2]])
        yield _row(provider, "p99", "ms", [found[int(0.99 * len(found))]])
        yield _row(provider, "samples a second", "1/s", rates[clients])
        ratios = [a / b for a, b in zip(rates[clients], alone, strict=True)]
        yield _row(provider, "of the rate in process", "", ratios)


def in_process(count: int) -> float:
    """Samples a second of the batch alone."""
    made = model()
    sampler = fastgen.Sampler(made, fastgen.plan("dpmpp_2m", made.schedule, STEPS))
    batch = sampler.serve((ROWS, *SHAPE), previews=True)
    asked, done, begin = 0, 0, time.perf_counter()
    while done < count:
        while batch.free and asked < count:
            batch.admit(sample_id=asked)
            asked += 1
        done += len(batch.step())
    return count / (time.perf_counter() - begin)


class Server:
    """`fastgen serve` in a process of its own."""

    def __enter__(self) -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        shape = ",".join(map(str, SHAPE))
        line = f"serve benchmarks.suites.http:model --shape {shape} --rows {ROWS} --steps {STEPS}"
        command = [sys.executable, "-m", "fastgen", *line.split(), "--port", str(port)]
        own = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL)
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return port
            except OSError:
                time.sleep(0.1)
        raise TimeoutError("the server has not begun within a minute")

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


async def load(port: int, clients: int, count: int) -> tuple[list[float], float]:
    """Seconds of each request, and samples a second of all."""
    left = iter(range(count))
    spent: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for i in left:
            begin = time.perf_counter()
            await ask(reader, writer, i)
            spent.append(time.perf_counter() - begin)
        writer.close()

    begin = time.perf_counter()
    await asyncio.gather(*[client() for _ in range(clients)])
    return spent, count / (time.perf_counter() - begin)


async def ask(reader: Any, writer: Any, sample_id: int) -> bytes:
    """One request on a connection that is kept."""
    body = json.dumps({"ids": [sample_id]}).encode()
    head = f"POST /sample HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    if not answer.startswith("http/1.1 200"):
        raise RuntimeError(answer.splitlines()[0])
    size = int(answer.partition("content-length:")[2].split()[0])
    found: bytes = await reader.readexactly(size)
    return found


def _row(provider: str, metric: str, unit: str, values: list[float]) -> Row:
    own = "http", "one sample a request", provider, "fastgen-torch", SHAPE, torch.float32
    return row(*own, metric, unit, values)
