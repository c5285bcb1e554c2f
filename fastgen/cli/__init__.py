"""The command line, `fastgen demo | train | tune | sample ...`: a module for each command.

A command's module is imported when the command is given: `fastgen --help` needs no torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from fastgen.common.version import VERSION

__all__ = ["main"]

# Each has a module here of the same name, with `add_arguments(parser)` and `run(arguments)`.
COMMANDS = {
    "demo": "train on handwritten digits and compare solvers",
    "train": "train a network on arrays, images or a built-in set",
    "tune": "fit a plan to a network",
    "sample": "draw samples from a network",
    "generate": "draw samples by the million, in shards, with any number of processes",
    "serve": "serve samples over HTTP",
    "solvers": "list the solvers",
    "plan": "print a solver's plan",
}
MISUSE = (
    argparse.ArgumentTypeError,
    ArithmeticError,
    ImportError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class _Parser(argparse.ArgumentParser):
    """Reports bad arguments as an exception, which `main` prints on one line."""

    command: str | None = None  # whose arguments are to be added when it is first asked to parse

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.command is not None:
            module = import_module(f"{__name__}.{self.command}")
            self.command = None
            module.add_arguments(self)
            self.set_defaults(run=module.run)
        return super().parse_known_args(args, namespace)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it succeeded, 2 after one line on stderr if it was misused."""
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
        arguments.run(arguments)
    except SystemExit as finished:  # --help and --version
        return int(finished.code or 0)
    except KeyboardInterrupt:
        print("fastgen: interrupted", file=sys.stderr)
        return 130
    except MISUSE as error:
        if os.environ.get("FASTGEN_TRACEBACK"):
            raise
        print(f"fastgen: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fastgen",
        description="Samplers for score, diffusion and flow-matching models.",
        epilog="FASTGEN_TRACEBACK=1 shows where an error arose.",
    )
    parser.add_argument("--version", action="version", version=f"fastgen {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text).command = name
    return parser
