"""Pictures as PNG files, by Pillow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHANNELS = (1, 3, 4)


def encoded(sample: NDArray[np.uint8]) -> bytes:
    """A picture [1, 3 or 4, H, W] as a PNG file."""
    last = np.moveaxis(sample, 0, -1)
    made = io.BytesIO()
    grey = last.shape[-1] == 1
    image().fromarray(np.ascontiguousarray(last[..., 0] if grey else last)).save(made, "PNG")
    return made.getvalue()


def decoded(content: bytes) -> NDArray[np.uint8]:
    """The picture of a PNG file."""
    with image().open(io.BytesIO(content)) as picture:
        found = np.asarray(picture)
    return np.ascontiguousarray(np.moveaxis(found[..., None] if found.ndim == 2 else found, -1, 0))


def image() -> Any:
    """``PIL.Image``.

    Raises:
        ImportError: where Pillow is missing, naming how it is installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("PNG files need Pillow: pip install pillow") from error
    return Image
