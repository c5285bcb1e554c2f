"""The 2-D experiments alone: two processes, checkpoints; a run goes on where it stopped."""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.suites.two_dimensional import CASES, rows_of_case
from benchmarks.suites.two_dimensional.protocol import Protocol, file_of, mean_row
from benchmarks.tools import rows
from benchmarks.tools.rows import Row


def main() -> None:
    """Run the protocol and write a CSV."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suites.two_dimensional")
    parser.add_argument("--quick", action="store_true", help="2 seeds, 1000 steps, 1000 points")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--points", type=int, default=10_000, help="of generated and test data")
    parser.add_argument("--pair", action="append", choices=CASES, help="default: all")
    parser.add_argument("--jobs", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--out", type=Path, default=Path("out/two-dimensional.csv"))
    parser.add_argument(
        "--folder", type=Path, default=Path("out/two-dimensional"), help="of checkpoints"
    )
    parser.add_argument("--resume", action="store_true", help="go on from what --folder has")
    arguments = parser.parse_args()
    protocol = Protocol(range(arguments.seeds), arguments.steps, arguments.points)
    if arguments.quick:
        protocol = Protocol(range(2), 1000, 1000)
    names = arguments.pair or list(CASES)
    if not arguments.resume:
        for name in names:
            for path in arguments.folder.glob(f"{file_of(name)}*"):
                path.unlink()
    began = time.perf_counter()
    # A process to a core: networks this small gain nothing from a second thread.
    context = multiprocessing.get_context("spawn")
    found: dict[str, list[Row]] = {}
    with ProcessPoolExecutor(arguments.jobs, context, torch.set_num_threads, (1,)) as pool:
        rest = (protocol, arguments.folder, not arguments.eager)
        work = {pool.submit(rows_of_case, name, *rest): name for name in names}
        for future in as_completed(work):
            name = work[future]
            found[name] = future.result()
            for line in found[name]:
                print(
                    f"{line.case:32} {line.provider:10} {line.metric:5} {line.median:.4f}"
                    f" [{line.p20:.4f}, {line.p80:.4f}] {line.note}",
                    flush=True,
                )
            rows.write([r for n in names for r in found.get(n, [])], arguments.out)
    if not arguments.resume:
        written = [r for n in names for r in found[n]]
        rows.write([*written, wall_time(names, arguments.jobs, began)], arguments.out)


def wall_time(names: Sequence[str], jobs: int, began: float) -> Row:
    """Of the whole run, beside which `time` counts the seconds of each case."""
    case = "whole protocol" if len(names) == len(CASES) else "run"
    seconds = time.perf_counter() - began
    found = mean_row(case, "fastgen", "wall time", (len(names),), seconds, 0.0, ", ".join(names))
    return replace(found, unit="s", threads=jobs)


if __name__ == "__main__":
    main()
