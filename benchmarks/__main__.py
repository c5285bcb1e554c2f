"""Run suites: `python -m benchmarks [suite ...] [--quick]` writes a CSV, plots and a report."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.suites import SUITES
from benchmarks.tools import compare, figures, kept, pages, report, rows


def run(names: list[str], quick: bool, path: Path, resume: bool) -> list[rows.Row]:
    """Run suites under a progress bar; every finished row is in the CSV at once."""
    console = Console()
    columns = TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        suites = progress.add_task("suites", total=len(names))
        cases = progress.add_task("cases", total=None)

        def report_progress(done: int, total: int) -> None:
            progress.update(cases, completed=done, total=total)

        rows.journal = rows.Journal(path, resume, report_progress)
        for name in names:
            progress.reset(cases, total=None, description=name)
            for row in importlib.import_module(f"benchmarks.suites.{name}").rows(quick):
                rows.journal.add(row)
                console.print(line(row), highlight=False, soft_wrap=True)
            progress.advance(suites)
    return rows.journal.rows


def line(row: rows.Row) -> str:
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
    parser.add_argument("--keep", action="store_true", help="put the rows into results/ at the end")
    parser.add_argument(
        "--docs", action="store_true", help="only docs/benchmarks.md and its figures, from results/"
    )
    arguments = parser.parse_args()
    for name in arguments.suites:
        if name not in SUITES:
            parser.error(f"unknown suite {name!r}: there are {', '.join(SUITES)}")
    if arguments.keep and arguments.quick:
        parser.error("--keep is for whole runs, not for --quick")
    if arguments.list:
        print("\n".join(f"{name:16} {what}" for name, what in SUITES.items()))
        return
    if arguments.docs:
        pages.PAGE.write_text(pages.page())
        figures.write()
        return
    if arguments.report:
        found = rows.read(arguments.out)
    else:
        names = arguments.suites or list(SUITES)
        found = run(names, arguments.quick, arguments.out, arguments.resume)
        print(f"{len(found)} rows in {arguments.out}")
    print(f"report: {report.write(found, arguments.out.parent)}")
    if arguments.compare:
        print(compare.changes(kept.read_file(arguments.compare), found))
    if arguments.keep:
        print(f"kept: {', '.join(map(str, kept.keep(found)))}")


if __name__ == "__main__":
    main()
