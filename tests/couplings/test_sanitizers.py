"""The solver in C++ under GCC's and Clang's sanitizers; also `make sanitize`."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "csrc"
HARNESS = Path(__file__).with_name("sanitize.cpp")


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_sanitized(sanitizers, tmp_path):
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    flags = ["-std=c++17", "-O1", "-g", "-pthread", "-Wno-psabi", "-ffp-contract=off"]
    flags += [f"-I{SOURCES}", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    isas = {"baseline": []}
    if platform.machine() in ("x86_64", "AMD64"):
        flags.append("-DFASTGEN_X86")
        isas["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
        isas["avx512"] = ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mf16c"]
    names = [
        "solver",
        "lists",
        "paths",
        "points",
        "operation",
        "copies",
        "direct",
        "certificate",
        "transport",
    ]
    sources = [SOURCES / "assignment" / f"{name}.cpp" for name in names]
    sources += [SOURCES / "common" / f"{name}.cpp" for name in ("isa", "memory")]
    units = [(source, source.stem, []) for source in [*sources, HARNESS]]
    for isa, own in isas.items():
        kernels = SOURCES / "assignment" / "kernels_isa.cpp"
        units.append((kernels, f"kernels_{isa}", [f"-DFASTGEN_ISA={isa}", *own]))
    objects = [str(tmp_path / f"{name}.o") for _, name, _ in units]
    for (source, _, own), built in zip(units, objects, strict=True):
        command = [compiler, *flags, *own, "-c", str(source), "-o", built]
        subprocess.run(command, check=True, timeout=300)
    program = tmp_path / "sanitize"
    subprocess.run([compiler, *flags, *objects, "-o", str(program)], check=True, timeout=300)
    result = subprocess.run([program], capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("\n0 failures\n") or result.stdout == "0 failures\n"
