"""On one GPU: `python -m benchmarks.gpu`; copies, the kernels' share of them, and whole loops.

Everything is timed by the wall, from an idle device to an idle device over many calls, so that
host and device count as they overlap in use. Kernels are called from a CUDA graph, which leaves
the device's time alone. A case that fails or for which no time is left gives a row that says so.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu.bench import Bench, copies
from benchmarks.gpu.couplings import couplings
from benchmarks.gpu.kernels import kernels
from benchmarks.gpu.loops import compiled, loops
from benchmarks.gpu.ode import integrate
from benchmarks.gpu.sinkhorn import transport
from benchmarks.gpu.table import table

# In the order of their value: should the time run out, the rest is missing.
SUITES = ["table", "loops", "ode", "couplings", "sinkhorn", "compiled", "kernels"]


def main() -> None:
    """Run the suites and write the CSV."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu/gpu.csv"))
    parser.add_argument("--seconds", type=float, default=360.0, help="build no case after these")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does every line run?")
    parser.add_argument("--suite", action="append", choices=SUITES, help="all")
    parser.add_argument("--resume", action="store_true", help="keep the rows that --out has")
    arguments = parser.parse_args()
    bench = Bench(
        arguments.device, arguments.out, arguments.seconds, arguments.quick, arguments.resume
    )
    chosen = arguments.suite or SUITES
    bandwidth = copies(bench)
    suites: dict[str, Callable[[], None]] = {
        "table": lambda: table(bench, bandwidth),
        "loops": lambda: loops(bench),
        "ode": lambda: integrate(bench),
        "couplings": lambda: couplings(bench),
        "sinkhorn": lambda: transport(bench),
        "compiled": lambda: compiled(bench),
        "kernels": lambda: kernels(bench, bandwidth),
    }
    whole, failed = bench.until, []
    for name, measure in suites.items():
        if name not in chosen:
            continue
        # A suite has two fifths of what is left at most, the last ones all.
        left = whole - time.monotonic()
        bench.until = whole if name in (chosen[-1], "compiled") else time.monotonic() + 0.4 * left
        try:
            measure()
        except Exception:  # what is before a case is made; the suites behind it run
            traceback.print_exc()
            failed.append(name)
    print(f"{len(bench.found)} rows in {arguments.out}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
