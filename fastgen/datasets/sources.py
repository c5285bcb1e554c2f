"""What the names and paths of data may be, told without reading any."""

from __future__ import annotations

from pathlib import Path

from fastgen.common.errors import nearest
from fastgen.datasets.planar import SETS

DIGITS = "digits"
ARRAYS = (".npy", ".npz", ".csv")
TAR, ZARR = ".tar", ".zarr"


def check_source(source: str) -> None:
    """Raise unless there is a built-in set, a folder, or an .npy, .npz or .csv file of that name.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for anything else, naming the nearest built-in set.
    """
    path = Path(source)
    if source == DIGITS or source in SETS or path.is_dir():
        return
    if path.suffix == TAR and any(path.parent.glob(path.name)):  # a pattern, too
        return
    if path.suffix.lower() not in (*ARRAYS, TAR):
        known = nearest(source, [*SETS, DIGITS])
        raise ValueError(
            f"{source}: no folder, no {', '.join(ARRAYS)} or {TAR} file, and no built-in set; "
            f"{known}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
