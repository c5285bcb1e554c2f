"""The solver in C++ under GCC's and Clang's sanitizers; also `make sanitize`."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "csrc"


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_sanitized(sanitizers, tmp_path):
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    flags = ["-std=c++17", "-O1", "-g", "-pthread", "-Wno-psabi", "-ffp-contract=off"]
    flags += [f"-I{SOURCES}", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    names = ["solver", "lists", "paths", "points", "assign", "copies", "scan_baseline"]
    if platform.machine() in ("x86_64", "AMD64"):
        flags.append("-DFASTGEN_X86")
        names.append("scan_avx2")
    objects = []
    sources = [SOURCES / "assignment" / f"{name}.cpp" for name in names] + [SOURCES / "memory.cpp"]
    for source in [*sources, Path(__file__).parent / "sanitize.cpp"]:
        objects.append(str(tmp_path / f"{source.stem}.o"))
        isa = ["-mavx2", "-mf16c"] if source.stem.endswith("avx2") else []
        command = [compiler, *flags, *isa, "-c", str(source), "-o", objects[-1]]
        subprocess.run(command, check=True, timeout=300)
    program = tmp_path / "sanitize"
    subprocess.run([compiler, *flags, *objects, "-o", str(program)], check=True, timeout=300)
    result = subprocess.run([program], capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("\n0 failures\n") or result.stdout == "0 failures\n"
