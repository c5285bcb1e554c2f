"""Run suites and write one CSV: `python -m benchmarks [suite ...] [--quick] [--out FILE]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import kernels, loops, quality, startup, training
from benchmarks.harness import Row, write

SUITES = {m.__name__.split(".")[-1]: m.rows for m in (kernels, loops, startup, training, quality)}


def main() -> None:
    """Run the chosen suites, print a line per row and write the CSV after each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="suite", help=f"of {', '.join(SUITES)}")
    parser.add_argument("--quick", action="store_true", help="fewer cases and repeats")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks.csv"))
    arguments = parser.parse_args()
    for name in arguments.suites:
        if name not in SUITES:
            parser.error(f"unknown suite {name!r}: there are {', '.join(SUITES)}")
    found: list[Row] = []
    for name in arguments.suites or SUITES:
        for row in SUITES[name](arguments.quick):
            found.append(row)
            print(
                f"{row.suite:8} {row.case:34} {row.shape:12} {row.provider:22} {row.metric:10} "
                f"{row.median:10.5g} {row.unit:3} [{row.p20:.5g}, {row.p80:.5g}]",
                flush=True,
            )
            write(found, arguments.out)
    print(f"{len(found)} rows in {arguments.out}")


if __name__ == "__main__":
    main()
