"""What `import fastgen`, and the first use of `fastgen.sample`, add to `import torch`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import torch

from benchmarks.tools.rows import Row, recorded, row

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
