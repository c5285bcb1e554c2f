"""Names of a peer that its drop-in refuses, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn


class Refused:
    """A module's ``__getattr__``: refused names raise an ImportError that says why.

    An ImportError, not an AttributeError, whose text ``from module import name`` would not show.

    Args:
        module: the module's name.
        reasons: a reason, with the remedy, for each name.
    """

    def __init__(self, module: str, reasons: Mapping[str, str]) -> None:
        self.module, self.reasons = module, reasons

    def __call__(self, name: str) -> NoReturn:
        """Raise for the name.

        Raises:
            ImportError: for a refused name.
            AttributeError: for any other.
        """
        if name in self.reasons:
            reason = self.reasons[name]
            raise ImportError(f"{self.module} has no {name}: {reason}", name=self.module)
        raise AttributeError(f"module {self.module!r} has no attribute {name!r}")
