"""The kernels of csrc/assignment/cuda on the CPU: built by g++, behind a mock of the driver."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from fastgen.kernels.assignment import cuda, nvrtc

SOURCES = Path(__file__).parents[2] / "csrc/assignment/cuda"


def build(folder: Path, *flags: str) -> ctypes.CDLL:
    """The harness as a library."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    path = folder / "cuda_on_host.so"
    command = [compiler, "-std=c++17", "-O2", "-fPIC", "-shared", "-U_FORTIFY_SOURCE"]
    # Products and sums are rounded one by one, as on the device.
    command += ["-ffp-contract=off", "-Wno-unknown-pragmas", *flags, f"-I{SOURCES}"]
    source = Path(__file__).with_name("cuda_on_host.cpp")
    subprocess.run([*command, "-o", str(path), str(source)], check=True, timeout=300)
    library = ctypes.CDLL(str(path))
    library.fastgen_test_seed.argtypes = [ctypes.c_uint64]
    for name in ("problem", "shared", "token"):
        getattr(library, f"fastgen_test_{name}_size").restype = ctypes.c_uint64
    return library


def runtime(library: ctypes.CDLL, processors: int, threads: int = 64) -> cuda.Runtime:
    """Kernels "loaded" on a device of so many processors."""
    return cuda.Runtime(nvrtc.Module(library, b""), processors, 200_000, threads)
