"""`fastgen solvers`: the table of solvers, printed without loading one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from fastgen.cli.solver_facts import FACTS, HEADERS
from fastgen.demo.tables import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--markdown", action="store_true", help="as the page docs/solvers.md")
    parser.add_argument("--facts", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--order", type=int, help="those of this convergence order")
    parser.add_argument("--evaluations", help="those of so many evaluations per step")
    for name, text in (
        ("--stochastic", "those that draw noise by default, or with --no-stochastic the others"),
        ("--two-times", "those that need a network of average velocities, or with --no- not"),
    ):
        parser.add_argument(name, action=argparse.BooleanOptionalAction, default=None, help=text)


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    facts = ("order", "evaluations", "stochastic", "two_times")
    asked = {fact: getattr(arguments, fact) for fact in facts}
    if not (arguments.facts or arguments.markdown):
        print(table(HEADERS, listed(asked)))
        return
    from fastgen.cli import solver_table

    if arguments.facts:
        print(solver_table.facts_module(), end="")
        return
    given = [fact for fact, value in asked.items() if value is not None]
    if given:
        raise ValueError(f"--markdown: the page has all solvers; leave out {', '.join(given)}")
    print(solver_table.markdown(), end="")


def listed(asked: Mapping[str, object]) -> list[tuple[str, ...]]:
    """The cells of all solvers of which everything that is asked, and not None, is true.

    They were read off the plans when `solver_facts` was written, and tests hold them to the plans.
    A program that has the solvers in use may have registered others: there they are read anew.
    """
    if "fastgen.solvers" in sys.modules:
        from fastgen.cli import solver_table

        return solver_table.listed(asked)
    return [
        (name, *cells)
        for name, (facts, cells) in FACTS.items()
        if all(value in (None, fact) for value, fact in zip(asked.values(), facts, strict=True))
    ]
