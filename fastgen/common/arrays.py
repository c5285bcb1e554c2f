"""Arrays of numpy from files that anyone may have written."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

GIVEN_BACK_AFTER = 64 << 20  # bytes


class MappedReads:
    """Keeps a process from growing with what it has read through a memory-mapped array.

    After every 64 MiB the pages of the mapping are given back to the system, which has them in its
    cache as long as it likes. Of other arrays, and where there is no madvise, nothing is done.
    """

    def __init__(self, array: Any) -> None:
        # Of a private mapping (mode "c") what was written would be lost.
        shared = getattr(array, "mode", "") in ("r", "r+")
        self._mapped, self._read = getattr(array, "_mmap", None) if shared else None, 0

    def add(self, size: int) -> None:
        """So many bytes have been read."""
        self._read += size
        if self._read >= GIVEN_BACK_AFTER:
            self._read = 0
            if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
                self._mapped.madvise(mmap.MADV_DONTNEED)

    def __getstate__(self) -> dict[str, Any]:
        return {"_mapped": None, "_read": 0}


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
