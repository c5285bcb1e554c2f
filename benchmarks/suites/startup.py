"""What `import fastgen` adds to `import torch`, in new processes."""

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
import fastgen
print(time.perf_counter() - start, 'triton' in sys.modules)
"""


def import_seconds() -> float:
    """Seconds of `import fastgen` once torch is there.

    Raises:
        AssertionError: if that imports Triton on a machine without a GPU.
    """
    command = [sys.executable, "-c", PROGRAM]
    # As installed: with compiled bytecode, which some environments forbid to write.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    words = run.stdout.split()
    assert torch.cuda.is_available() or words[1] == "False", "import fastgen imported Triton"
    return float(words[0])


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    if recorded("startup", "import after torch", "fastgen", ()):
        return
    import_seconds()
    times = [import_seconds() * 1e6 for _ in range(3 if quick else 10)]
    yield row(
        "startup", "import after torch", "fastgen", "fastgen-torch", (), torch.float32,
        "time", "us", times,
    )  # fmt: skip
