"""What comes before the first step.

What `import fastgen`, and the first use of `fastgen.sample`, add to `import torch`; and how long
plans that are not kept from before take, with their lowering.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

import fastgen
from benchmarks.tools.rows import Row, recorded, row
from fastgen.schedules import Rectified

PROGRAM = """
import sys, time, torch
start = time.perf_counter()
{statement}
print(time.perf_counter() - start, "triton" in sys.modules)
"""
STATEMENTS = {
    "import after torch": "import fastgen",
    "first use of sample": "import fastgen; fastgen.sample",
}

PLANS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("dpmpp_2m", 20, {}),
    ("adams_bashforth_moulton", 20, {"order": 8}),
    ("euler", 2000, {}),
    ("adams_bashforth_moulton", 2000, {"order": 8}),
)


def planned(solver: str, steps: int, options: dict[str, Any], repeats: int) -> list[float]:
    """Microseconds of plans and their lowering, each from slightly other times."""
    model = fastgen.Model(lambda x, t: x, Rectified(), predicts="velocity")
    found = []
    for i in range(repeats + 1):
        start = time.perf_counter()
        plan = fastgen.plan(solver, model.schedule, steps, end=1e-3 * (1 + 1e-3 * i), **options)
        fastgen.Sampler(model, plan).prepared.program()
        found.append(1e6 * (time.perf_counter() - start))
    return found[1:]


def seconds(statement: str) -> float:
    """Seconds of a statement in a new process once torch is there.

    Raises:
        AssertionError: if that imports Triton on a machine without a GPU.
    """
    command = [sys.executable, "-c", PROGRAM.format(statement=statement)]
    # As installed: with compiled bytecode, which some environments forbid to write.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    words = run.stdout.split()
    assert torch.cuda.is_available() or words[1] == "False", f"{statement} imported Triton"
    return float(words[0])


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    for case, statement in STATEMENTS.items():
        if recorded("startup", case, "fastgen", ()):
            continue
        seconds(statement)
        times = [seconds(statement) * 1e6 for _ in range(3 if quick else 10)]
        yield row(
            "startup", case, "fastgen", "fastgen-torch", (), torch.float32, "time", "us", times,
        )  # fmt: skip
    for solver, steps, options in PLANS:
        case = " ".join(
            [f"plan of {steps} steps, {solver}", *(f"{k}={v}" for k, v in options.items())]
        )
        if not recorded("startup", case, "fastgen", ()):
            times = planned(solver, steps, options, 3 if quick else 10)
            yield row(
                "startup", case, "fastgen", "fastgen-torch", (), torch.float32, "time", "us", times,
            )  # fmt: skip
