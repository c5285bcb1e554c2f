"""Run suites: `python -m benchmarks [suite ...] [--quick]` writes a CSV, plots and a report."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import compare, harness, pages, report

# What each measures; the module of that name has `rows(quick)`.
SUITES = {
    "kernels": "the kernels alone, beside preallocated PyTorch and torch.compile",
    "loops": "microseconds per step of whole sampling loops around a network that costs nothing",
    "schedulers": "microseconds per step of the diffusers drop-in beside diffusers",
    "stages": "microseconds per stage of every solver at (256, 2)",
    "end_to_end": "whole loops with real networks of several sizes, and the solver's share",
    "drop_ins": "microseconds per evaluation of the drop-ins for k-diffusion, EDM, flow_matching",
    "sde": "stochastic solvers and Brownian motions beside torchsde",
    "quality": "quality against network evaluations with exact scores and trained networks",
    "integrate": "error-controlled ODE steps, and a continuous normalizing flow",
    "training": "one training batch beside torchcfm",
    "couplings": "exact optimal assignment beside the peers' solvers",
    "sinkhorn": "entropic transport to a given marginal error, beside POT and geomloss",
    "two_dimensional": "the 2-D tables of the OT-CFM papers (hours; as a module of its own, "
    "python -m benchmarks.two_dimensional, it has two processes and goes on where it stopped)",
    "training_drop_ins": "the drop-ins for torchcfm and torchdiffeq beside the originals",
    "memory": "peak memory of a sampling run",
    "startup": "time of `import fastgen`",
}


def run(names: list[str], quick: bool, path: Path, resume: bool) -> list[harness.Row]:
    """Run suites under a progress bar; every finished row is in the CSV at once."""
    console = Console()
    columns = TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        suites = progress.add_task("suites", total=len(names))
        cases = progress.add_task("cases", total=None)

        def report_progress(done: int, total: int) -> None:
            progress.update(cases, completed=done, total=total)

        harness.journal = harness.Journal(path, resume, report_progress)
        for name in names:
            progress.reset(cases, total=None, description=name)
            for row in importlib.import_module(f"benchmarks.{name}").rows(quick):
                harness.journal.add(row)
                console.print(line(row), highlight=False, soft_wrap=True)
            progress.advance(suites)
    return harness.journal.rows


def line(row: harness.Row) -> str:
    """A row as it is printed while the suites run."""
    what = f"{row.suite:8} {row.case:34} {row.shape:12} {row.provider:22} {row.metric:10}"
    if row.note and not row.repeats:
        return f"{what} {row.note}"
    return f"{what} {row.median:10.5g} {row.unit:3} [{row.p20:.5g}, {row.p80:.5g}]"


def main() -> None:
    """Read the command line, run the suites, write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="suite", help=f"of {', '.join(SUITES)}; all")
    parser.add_argument("--list", action="store_true", help="say what the suites measure")
    parser.add_argument("--quick", action="store_true", help="fewer cases and repeats: 5 minutes")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/benchmarks.csv"))
    parser.add_argument("--resume", action="store_true", help="keep the rows that --out has")
    parser.add_argument("--compare", type=Path, metavar="OLD", help="print what changed since OLD")
    parser.add_argument("--report", action="store_true", help="only the report on --out's rows")
    parser.add_argument(
        "--docs", action="store_true", help="only docs/benchmarks.md, from results/"
    )
    arguments = parser.parse_args()
    for name in arguments.suites:
        if name not in SUITES:
            parser.error(f"unknown suite {name!r}: there are {', '.join(SUITES)}")
    if arguments.list:
        print("\n".join(f"{name:16} {what}" for name, what in SUITES.items()))
        return
    if arguments.docs:
        pages.PAGE.write_text(pages.markdown())
        return
    if arguments.report:
        rows = harness.read(arguments.out)
    else:
        names = arguments.suites or list(SUITES)
        rows = run(names, arguments.quick, arguments.out, arguments.resume)
        print(f"{len(rows)} rows in {arguments.out}")
    print(f"report: {report.write(rows, arguments.out.parent)}")
    if arguments.compare:
        print(compare.changes(harness.read(arguments.compare), rows))


if __name__ == "__main__":
    main()
