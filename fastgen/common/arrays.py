"""Arrays of numpy from files that anyone may have written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file by their names; that of a .npy file has the name "".

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, of another kind, or holds objects.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            return {"": file}
        with file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zip, zlib, headers as Python text, memory: what a file makes of it
        raise ValueError(
            f"{path}: not a whole .npy or .npz file without objects ({error}); write it anew with "
            "numpy.save or numpy.savez"
        ) from error
