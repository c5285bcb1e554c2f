"""`fastgen plan`: a solver's plan, as a table or as JSON."""

from __future__ import annotations

import argparse

from fastgen.cli.arguments import add_plan_arguments, named_schedule, plan_options
from fastgen.solvers import plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("solver", help="see `fastgen solvers`")
    parser.add_argument("--json", action="store_true", help="as JSON, for Plan.from_json")
    add_plan_arguments(parser, "Rectified")


def run(arguments: argparse.Namespace) -> None:
    """Print the plan."""
    options = plan_options(arguments)
    found = plan(
        arguments.solver,
        named_schedule(arguments.schedule),
        arguments.steps,
        timesteps=arguments.timesteps,
        **options,
    )
    print(found.to_json() if arguments.json else found)
