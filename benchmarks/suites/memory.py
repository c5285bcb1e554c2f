"""Peak memory of a sampling run, in new processes: above what is there before it starts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import torch

from benchmarks.tools.rows import Row, recorded, row, show_progress, skipped

SHAPE = (64, 3, 64, 64)
SOLVERS = ("ddim", "ddpm", "dpmpp_2m", "unipc", "rk4")
PEERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}
# The network returns a new tensor; the peak is the process's high-water mark above its start. That
# of `getrusage` begins, on Linux, with what the parent held.
COMMON = """
import resource, sys, torch
torch.set_num_threads(1)
shape, solver = tuple(map(int, sys.argv[1].split("x"))), sys.argv[2]
def peak():
    try:
        with open("/proc/self/status") as status:
            return next(int(x.split()[1]) * 1024 for x in status if x.startswith("VmHWM:"))
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
x = torch.randn(shape)
net = lambda x, t: x * 0.1
"""
PROGRAMS = {
    "fastgen": """
import fastgen
schedule = fastgen.schedules.DiscreteVP.linear()
sampler = fastgen.Sampler(fastgen.Model(net, schedule, "noise"), fastgen.plan(solver, schedule, 10))
sampler(x[:1])
before = peak()
sampler(x)
print(peak() - before)
""",
    "diffusers": """
import diffusers
scheduler = getattr(diffusers, solver)()
def run(x):
    scheduler.set_timesteps(10)
    with torch.inference_mode():
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t), t, x, return_dict=False)[0]
run(x[:1])
before = peak()
run(x)
print(peak() - before)
""",
}


def peak(provider: str, solver: str) -> float:
    """MiB above the memory before the run.

    Raises:
        subprocess.CalledProcessError: if the process fails.
    """
    program = COMMON + PROGRAMS[provider]
    command = [sys.executable, "-c", program, "x".join(map(str, SHAPE)), solver]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout) / 2**20


def rows(quick: bool) -> Iterator[Row]:
    """The suite; the floor is one tensor of the state's size."""
    floor = 4 * torch.Size(SHAPE).numel() / 2**20
    solvers = SOLVERS[:1] if quick else SOLVERS
    for done, solver in enumerate(solvers):
        show_progress(done, len(solvers))
        for provider, name in (("fastgen", solver), ("diffusers", PEERS.get(solver))):
            if name is None or recorded("memory", solver, provider, SHAPE):
                continue
            try:
                found = [peak(provider, name) for _ in range(2 if quick else 5)]
            except subprocess.CalledProcessError as error:
                reason = error.stderr.strip().split("\n")[-1]
                yield skipped("memory", solver, provider, SHAPE, reason)
                continue
            package = {"fastgen": "fastgen-torch"}.get(provider, provider)
            yield row(
                "memory", solver, provider, package, SHAPE, torch.float32, "peak", "MiB", found,
                floor=floor,
            )  # fmt: skip
