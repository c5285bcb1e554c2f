"""Names of a peer that its drop-in refuses, with the reason."""

from __future__ import annotations

import dis
import sys
from collections.abc import Mapping
from types import FrameType
from typing import NoReturn

_IMPORT_FROM = dis.opmap["IMPORT_FROM"]


class Refused:
    """A module's ``__getattr__``: refused names raise an error that says why.

    For ``from module import name`` that is an ImportError, as Python replaces the text of an
    AttributeError there; elsewhere an AttributeError, so that hasattr is False.

    Args:
        module: the module's name.
        reasons: a reason, with the remedy, for each name.
    """

    def __init__(self, module: str, reasons: Mapping[str, str]) -> None:
        self.module, self.reasons = module, reasons

    def __call__(self, name: str) -> NoReturn:
        """Raise for the name.

        Raises:
            ImportError: for a refused name that is imported.
            AttributeError: for any other, and for refused names elsewhere.
        """
        if name not in self.reasons:
            raise AttributeError(f"module {self.module!r} has no attribute {name!r}")
        text = f"{self.module} has no {name}: {self.reasons[name]}"
        if _imports(sys._getframe(1)):
            raise ImportError(text, name=self.module)
        raise AttributeError(text, name=name)


def _imports(frame: FrameType) -> bool:
    """Whether a frame is at ``from module import name``."""
    return frame.f_lasti >= 0 and frame.f_code.co_code[frame.f_lasti] == _IMPORT_FROM
