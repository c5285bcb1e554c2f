"""Microseconds of CPU of a launch of every Triton kernel, by Triton's launchers, without a GPU.

Behind the launchers a libcuda that launches nothing: what the driver itself takes (about 2 us a
launch) is not in the figures. "described anew" is the same call where the short launch is not
taken, as a profiler's hook makes it be.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.tools import launchers
from benchmarks.tools.rows import Row, recorded, row

PROGRAM = """
import json, sys, time
from triton import knobs
from benchmarks.tools.launchers import Launches, calls
launches = Launches()
def seconds(call, repeats):
    times = []
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(200):
            call()
        times.append((time.process_time() - start) / 200 * 1e6)
    return times
for name, call in calls(rows=4, elements=64).items():
    launches.watched = True
    call()
    launches.kept.clear()
    call()
    count = len(launches.kept)
    launches.watched = False
    short = seconds(call, int(sys.argv[1]))
    before = knobs.runtime.launch_enter_hook
    hook = lambda metadata: None
    if hasattr(before, "add"):
        before.add(hook)
    else:
        knobs.runtime.launch_enter_hook = hook
    anew = seconds(call, max(1, int(sys.argv[1]) // 4))
    if hasattr(before, "add"):
        before.remove(hook)
    else:
        knobs.runtime.launch_enter_hook = before
    print(json.dumps([name, count, short, anew]), flush=True)
"""


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    if recorded("launches", "dopri5 step", "fastgen", (4, 64)):
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = launchers.environment(Path(folder))
        if environment is None:
            print("launches: needs gcc or cc", file=sys.stderr)
            return
        command = [sys.executable, "-c", PROGRAM, "3" if quick else "20"]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    for line in run.stdout.splitlines():
        name, count, short, anew = json.loads(line)
        launched = f"{count} launch{'es' * (count > 1)}"
        for peer, times in (("fastgen", short), ("described anew", anew)):
            yield row(
                "launches", name, peer, "triton", (4, 64), torch.float32, "time", "us",
                times, note=launched,
            )  # fmt: skip
