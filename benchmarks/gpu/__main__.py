"""On one GPU: `python -m benchmarks.gpu`; copies, the kernels' share of them, and whole loops.

Everything is timed by the wall, from an idle device to an idle device over many calls, so that
host and device count as they overlap in use. Kernels are called from a CUDA graph, which leaves
the device's time alone. A case that fails or for which no time is left gives a row that says so.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.gpu.bench import Bench, copies
from benchmarks.gpu.couplings import couplings
from benchmarks.gpu.kernels import kernels
from benchmarks.gpu.loops import loops
from benchmarks.gpu.ode import integrate

SUITES = ["kernels", "couplings", "loops", "ode"]


def main() -> None:
    """Run the suites and write the CSV."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu/gpu.csv"))
    parser.add_argument("--seconds", type=float, default=360.0, help="build no case after these")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does every line run?")
    parser.add_argument("--suite", action="append", choices=SUITES, help="all")
    arguments = parser.parse_args()
    bench = Bench(arguments.device, arguments.out, arguments.seconds, arguments.quick)
    chosen = arguments.suite or SUITES
    bandwidth = copies(bench)
    if "kernels" in chosen:
        whole, bench.until = bench.until, bench.until - 0.5 * arguments.seconds
        if chosen == ["kernels"]:
            bench.until = whole
        kernels(bench, bandwidth)
        bench.until = whole
    if "couplings" in chosen:
        couplings(bench)
    if "ode" in chosen:
        # Ahead of the loops, whose compiled rows take what time is left.
        whole, bench.until = bench.until, min(bench.until, time.monotonic() + 40)
        integrate(bench)
        bench.until = whole
    if "loops" in chosen:
        loops(bench)
    print(f"{len(bench.found)} rows in {arguments.out}")


if __name__ == "__main__":
    main()
