"""Data to train on: handwritten digits, points in the plane, files of arrays and images.

Names are imported when they are first used: those of points in the plane need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastgen.datasets.data import SAMPLES, Data, load, stored
    from fastgen.datasets.digits import CLASSES, Digits, Part, load_digits
    from fastgen.datasets.planar import SETS, checkerboard, eight_gaussians, moons, s_curve
    from fastgen.datasets.records import Arrays, Images, Items
    from fastgen.datasets.shards import Shards

__all__ = [
    "CLASSES",
    "SAMPLES",
    "SETS",
    "Arrays",
    "Data",
    "Digits",
    "Images",
    "Items",
    "Part",
    "Shards",
    "checkerboard",
    "eight_gaussians",
    "load",
    "load_digits",
    "moons",
    "s_curve",
    "stored",
]

_NAMES_OF = {
    "data": ("SAMPLES", "Data", "load", "stored"),
    "digits": ("CLASSES", "Digits", "Part", "load_digits"),
    "planar": ("SETS", "checkerboard", "eight_gaussians", "moons", "s_curve"),
    "records": ("Arrays", "Images", "Items"),
    "shards": ("Shards",),
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name at its first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value
