"""The CUDA kernels compiled ahead of time by nvcc: `make cuda`; a gate on stack and spills.

Users need none of this: fastgen/kernels/assignment/nvrtc.py compiles at run time.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastgen.kernels.assignment import cuda, nvrtc

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")


@dataclass(frozen=True)
class Figures:
    """Of one kernel: registers of a thread, bytes of stack, and of spilled registers."""

    architecture: str
    kernel: str
    registers: int
    stack: int
    spills: int


def judge(architecture: str, nvcc: str = "nvcc") -> Iterator[Figures]:
    """Compile for an architecture.

    Raises:
        FileNotFoundError: without nvcc.
        subprocess.CalledProcessError: where it fails.
    """
    source, headers = cuda.sources()
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {"assignment.cu": source, **headers}.items():
            (Path(folder) / name).write_text(text)
        options = (*nvrtc.OPTIONS, f"-arch={architecture}", "-Xptxas", "-v", "-cubin")
        command = (nvcc, *options, "-o", "assignment.cubin", "assignment.cu")
        result = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    pattern = (
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers"
    )
    for kernel, stack, stores, loads, registers in re.findall(pattern, result.stderr, re.DOTALL):
        spills = int(stores) + int(loads)
        yield Figures(architecture, kernel, int(registers), int(stack), spills)


def main(arguments: list[str] | None = None) -> int:
    """Print a table; 1 if a kernel has a stack or spills, or is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nvcc", default="nvcc", help="the compiler")
    parser.add_argument("--architecture", action="append", help="default: all")
    options = parser.parse_args(arguments)
    failed = 0
    for architecture in options.architecture or ARCHITECTURES:
        try:
            found = list(judge(architecture, options.nvcc))
        except FileNotFoundError:
            print(f"{options.nvcc} is not installed: nothing was compiled")
            return 0
        except subprocess.CalledProcessError as error:
            print(f"{architecture}: {error.stderr}")
            return 1
        failed += len(found) != 2
        for kernel in found:
            bad = bool(kernel.stack or kernel.spills)
            failed += bad
            print(
                f"{kernel.kernel:24}{kernel.architecture:8}{kernel.registers:4} registers, "
                f"{kernel.stack} stack, {kernel.spills} spills  {'FAILS' if bad else 'ok'}",
                flush=True,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
