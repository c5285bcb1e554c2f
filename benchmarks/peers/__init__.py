"""What a user would pick instead, called as its own documentation says; absent peers are None."""

from __future__ import annotations

import importlib
from types import ModuleType


def installed(name: str) -> ModuleType | None:
    """The module of that name, if it is there and can be imported."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
