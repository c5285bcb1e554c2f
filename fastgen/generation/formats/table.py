"""The formats by name."""

from __future__ import annotations

from fastgen.common.checks import check_choice
from fastgen.generation.formats.files import Format, Npz, Safetensors, WebDataset
from fastgen.generation.formats.folders import PngFolder, Zarr

FORMATS: dict[str, type[Format]] = {
    made.name: made for made in (Npz, Safetensors, WebDataset, PngFolder, Zarr)
}


def format_named(name: str) -> Format:
    """The format of a name.

    Raises:
        ValueError: naming the nearest one.
    """
    return FORMATS[check_choice("format", name, FORMATS)]()
