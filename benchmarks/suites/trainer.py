"""A trainer's steps beside a loop written by hand on accelerate; memory of sets on a disk.

The loop by hand is what accelerate's documentation shows: a DataLoader that shuffles, prepare,
noise and times of torch, AdamW, a schedule and an average of torch. One call is ten steps.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.peers import installed
from benchmarks.tools.harness import Case, Provider, measured
from benchmarks.tools.rows import Row, recorded, row
from fastgen.networks import MLP, ModulatedMLP, UNet
from fastgen.training import Flow, Settings, Trainer

SUITE = "trainer"
STEPS = 10
GIGABYTES = 20
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "MLP": (lambda: MLP((2,)), (2,), 256),
    "ModulatedMLP": (lambda: ModulatedMLP((1, 8, 8), 128, 2), (1, 8, 8), 128),
    "UNet": (lambda: UNet(channels=3, width=16), (3, 16, 16), 32),
}
READ = """
import sys
from pathlib import Path
from fastgen.datasets import stored
from fastgen.training import Settings
from fastgen.training.feed import Feed

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM:"))

feed = Feed(stored(sys.argv[1]), None, Settings(batch=256))
before = peak()
for step in range(int(sys.argv[2])):
    feed(step)
print(before, peak())
"""


def by_hand(network: nn.Module, data: torch.Tensor, size: int) -> Callable[[], None]:
    """Ten steps of flow matching on accelerate."""
    accelerate: Any = installed("accelerate")
    from torch.optim.lr_scheduler import CosineAnnealingLR
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
    from torch.utils.data import DataLoader, TensorDataset

    accelerator = accelerate.Accelerator(cpu=True)
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3, fused=True)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.998))
    schedule = CosineAnnealingLR(optimiser, 1_000_000)
    loader = DataLoader(TensorDataset(data), size, shuffle=True, drop_last=True)
    net, optimiser, loader, schedule = accelerator.prepare(network, optimiser, loader, schedule)

    def batches() -> Iterator[torch.Tensor]:
        while True:
            for (x,) in loader:
                yield x

    following = batches()

    def run() -> None:
        for _ in range(STEPS):
            x1 = next(following)
            x0, t = torch.randn_like(x1), torch.rand(len(x1))
            u = t.reshape(-1, *[1] * (x1.ndim - 1))
            loss = (net((1 - u) * x0 + u * x1, t) - (x1 - x0)).square().mean()
            optimiser.zero_grad()
            accelerator.backward(loss)
            optimiser.step()
            schedule.step()
            average.update_parameters(network)

    return run


def case(name: str) -> Case:
    """Steps of one network."""
    make, shape, size = NETWORKS[name]
    data = torch.randn(4096, *shape)
    settings = Settings(steps=1_000_000, batch=size)
    alone = Trainer(make(), Flow().loss, data, settings)
    providers = [Provider("fastgen", lambda: _steps(alone), units=STEPS)]
    if installed("accelerate") is not None:
        from fastgen.integrations.accelerate import Accelerated

        theirs = Trainer(make(), Flow().loss, data, settings, engine=Accelerated(cpu=True))
        hand = by_hand(make(), data, size)
        providers += [
            Provider("fastgen, on accelerate", lambda: _steps(theirs), units=STEPS),
            Provider("a loop by hand on accelerate", hand, "accelerate", units=STEPS),
        ]
    return Case(SUITE, f"a step, {name}", (size, *shape), torch.float32, providers)


def _steps(trainer: Trainer) -> None:
    trainer.run(trainer.step + STEPS)


def memory(quick: bool) -> Iterator[Row]:
    """Of a process that reads 256 samples at random, again and again, from 20 GB of zeros."""
    shape = (3, 64, 64)
    rows = (GIGABYTES << 30) // (4 * 3 * 64 * 64)
    head = io.BytesIO()
    facts: dict[str, Any] = {"descr": "<f4", "fortran_order": False, "shape": (rows, *shape)}
    np.lib.format.write_array_header_1_0(head, facts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.npy"
        with path.open("wb") as file:
            file.write(head.getvalue())
            file.truncate(len(head.getvalue()) + rows * 4 * 3 * 64 * 64)
        command = [sys.executable, "-c", READ, str(path), "10" if quick else "60"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for what, value in zip(("torch and fastgen", "and 60 batches"), said.split(), strict=True):
        yield row(
            SUITE, f"a set of {GIGABYTES} GB", what, "fastgen-torch", (256, *shape),
            torch.float32, "peak", "MiB", [int(value) / 2**20],
        )  # fmt: skip


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    yield from measured([case(name) for name in NETWORKS], quick)
    if sys.platform == "linux" and not recorded(
        SUITE, f"a set of {GIGABYTES} GB", "and 60 batches", (256, 3, 64, 64)
    ):
        yield from memory(quick)
