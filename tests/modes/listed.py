"""Where an entry point refuses a mode, and what it says. Everything else works."""

from __future__ import annotations

from typing import NamedTuple


class Listed(NamedTuple):
    """The class of the error and a pattern in its text."""

    error: type[Exception]
    says: str


LISTED: dict[tuple[str, str], Listed] = {}
