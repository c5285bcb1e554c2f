"""The command line."""

from fastgen.cli.commands import main

__all__ = ["main"]
