"""A network and what it means: its prediction, its schedule, how it is told the time, guidance.

Names are imported when they are first used: plans know what is predicted, but no network.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastgen.common.hub import PretrainedError
    from fastgen.model.branch import Branch
    from fastgen.model.card import Card
    from fastgen.model.guidance import Guidance
    from fastgen.model.model import Model
    from fastgen.model.permuted import Permuted
    from fastgen.model.transforms import dynamic_threshold

__all__ = [
    "Branch",
    "Card",
    "Guidance",
    "Model",
    "Permuted",
    "PretrainedError",
    "dynamic_threshold",
]

_MODULE_OF = {
    "Branch": "model.branch",
    "Card": "model.card",
    "Guidance": "model.guidance",
    "Model": "model.model",
    "Permuted": "model.permuted",
    "PretrainedError": "common.hub",
    "dynamic_threshold": "model.transforms",
}


def __getattr__(name: str) -> Any:
    """Import a name at its first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"fastgen.{_MODULE_OF[name]}"), name)
    return value
