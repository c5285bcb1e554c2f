"""The whole extension under GCC's sanitizers, called from Python: `make sanitize`.

    python -m tests.sanitize address [thread] [--isa baseline avx2] [--build-only] [-- pytest's own]

"address" builds csrc with -fsanitize=address,undefined and -D_GLIBCXX_ASSERTIONS into
out/sanitize/address and runs the tests of kernels, couplings, integration and schedulers on it,
once for each instruction set. "thread" does the same with -fsanitize=thread and runs
`tests.sanitize.threads`, which calls every operation from several threads, with several threads.
Linux and GCC.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SANITIZERS = {"address": "address,undefined", "thread": "thread"}
# Forks, subprocesses and compilers in these see no sanitizer, or take minutes under one.
SKIPPED = "not compile and not peers and not opcheck and not subprocess and not fork"
TESTS = [
    "tests/kernels",
    "tests/couplings",
    "tests/ode/test_engine.py",
    "tests/ode/test_ode_solve.py",
    "tests/sde/test_sde_solve.py",
    "tests/sampling/test_sampling.py",
    "tests/sampling/test_serving.py",
    "tests/integrations/diffusers",
    "tests/training/test_paths.py",
    "tests/training/test_quick_path.py",
]
OPTIONS = {
    # Python and torch keep what they allocate.
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    # Python, torch and OpenMP are not instrumented.
    "TSAN_OPTIONS": "ignore_noninstrumented_modules=1:halt_on_error=1:report_signal_unsafe=0",
}


def build(kind: str) -> Path:
    """Compile csrc; a folder that has the package with that extension."""
    place = ROOT / "out" / "sanitize" / kind
    package = place / "fastgen"
    package.mkdir(parents=True, exist_ok=True)
    for entry in (ROOT / "fastgen").iterdir():
        link = package / entry.name
        if entry.suffix != ".so" and not link.exists():
            link.symlink_to(entry)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(place)]
    command += ["--build-temp", str(place / "objects")]
    environment = os.environ | {"FASTGEN_SANITIZERS": SANITIZERS[kind]}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return place


def library(name: str) -> str:
    """Where GCC has a library."""
    command = [os.environ.get("GCC", "gcc"), f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run(kind: str, isa: str, place: Path, rest: list[str]) -> int:
    """The tests on what was built."""
    runtime = {"address": "libasan.so", "thread": "libtsan.so"}[kind]
    environment = os.environ | OPTIONS
    environment |= {
        "LD_PRELOAD": f"{library(runtime)} {library('libstdc++.so.6')}",
        "PYTHONPATH": f"{place}{os.pathsep}{ROOT}",
        "PYTHONMALLOC": "malloc",
        "FASTGEN_ISA": isa,
        "FASTGEN_BACKEND": "auto",
        "OMP_NUM_THREADS": "1" if kind == "address" else "4",
    }
    if kind == "thread":
        command = [sys.executable, "-m", "tests.sanitize.threads"]
    else:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", SKIPPED]
        command += rest or TESTS
    print(f"{kind}, {isa}:", *command[1:4], flush=True)
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main() -> int:
    """0 where nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.sanitize")
    parser.add_argument("kinds", nargs="*", default=["address", "thread"], metavar="KIND")
    parser.add_argument("--isa", nargs="+", default=["baseline", "avx2"])
    parser.add_argument("--build-only", action="store_true")
    own, _, rest = " ".join(sys.argv[1:]).partition(" -- ")
    arguments = parser.parse_args(own.split())
    failed = 0
    for kind in arguments.kinds:
        place = build(kind)
        for isa in [] if arguments.build_only else arguments.isa:
            failed |= run(kind, isa, place, rest.split())
    return int(failed != 0)


if __name__ == "__main__":
    raise SystemExit(main())
