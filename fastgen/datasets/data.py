"""Data by a name or a path: built-in sets, files of arrays and folders of images."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgen.common.arrays import read_arrays
from fastgen.common.display import displayed
from fastgen.datasets.digits import load_digits
from fastgen.datasets.images import load_folder
from fastgen.datasets.planar import SETS
from fastgen.datasets.records import Arrays, Images, Records
from fastgen.datasets.shards import Shards
from fastgen.datasets.sources import DIGITS, TAR, ZARR, check_source

SAMPLES = 20_000  # of the sets that are drawn
MOST_CLASSES = 10_000  # or as many as there are samples


@displayed
class Data(NamedTuple):
    """samples [N, ...], float32; labels [N] in 0 .. classes - 1, or None."""

    samples: Tensor
    labels: Tensor | None = None

    @property
    def classes(self) -> int:
        """The number of classes, 0 without labels."""
        return 0 if self.labels is None else int(self.labels.max()) + 1


def stored(source: str | Path) -> Records:
    """A set that stays on the disk: an .npy file, a .zarr or .tar, or a folder of images.

    A pattern such as ``shards/*.tar`` names several archives, in the order of their names.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another kind of file, or one that cannot be used.
    """
    path = Path(source)
    if path.suffix == TAR:
        found = sorted(path.parent.glob(path.name))
        if not found:
            raise FileNotFoundError(f"{path}: no such file")
        return Shards(found)
    if path.suffix == ZARR or path.suffix.lower() == ".npy":
        return Arrays.open(path)
    if path.is_dir():
        return Images(path)
    check_source(str(source))
    raise ValueError(f"{source}: is not read by number; save it with numpy.save as .npy")


def load(source: str) -> Data:
    """A built-in set's name, an .npy, .npz or .csv file, or a folder of images.

    digits: the 8 x 8 digits of scikit-learn with labels, in [-1, 1]. .npz: one array of data of any
    name, and perhaps "labels". .csv: numbers between commas, a sample in each line, after a line of
    names or without one; a column that is named "label" or "labels" holds labels. Folders: images
    of one size, as [C, H, W] in [-1, 1] (see ``fastgen.datasets.images.load_folder``); the names of
    subfolders, sorted, are the classes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be used, naming the file, the reason and what to do.
    """
    check_source(source)
    if source == DIGITS:
        return Data(*load_digits().train)
    if source in SETS:
        drawn = SETS[source](SAMPLES, np.random.default_rng(0))
        return Data(torch.from_numpy(drawn).float())
    path = Path(source)
    if path.suffix in (TAR, ZARR):
        raise ValueError(f"{path}: stays on the disk; give fastgen.datasets.stored({source!r})")
    if path.is_dir():
        images, classes = load_folder(path)
        return Data(images, classes)
    return _array(path)


def _array(path: Path) -> Data:
    arrays = _table(path) if path.suffix.lower() == ".csv" else read_arrays(path)
    labels = arrays.pop("labels", None)
    names = list(arrays)
    if len(names) != 1:
        found = f"{', '.join(names) or 'none'}{'' if labels is None else ' beside the labels'}"
        raise ValueError(
            f"{path}: expected one array of data, and perhaps 'labels', found {found}; leave the "
            "others out, or rename them"
        )
    data = arrays[names[0]]
    if data.ndim < 2 or 0 in data.shape or not np.issubdtype(data.dtype, np.floating):
        raise ValueError(
            f"{path}: expected floating data [N, ...] without an axis of 0, got {data.dtype} "
            f"{list(data.shape)}; scale images to [-1, 1], give vectors as [N, features]"
        )
    with np.errstate(over="ignore"):
        samples = data.astype(np.float32)  # of any byte order
    bad = np.flatnonzero(~np.isfinite(samples).reshape(len(samples), -1).all(1))
    if len(bad):
        beyond = np.isfinite(data[bad[0]]).all()
        fault = "values beyond float32; scale them" if beyond else "NaN or infinity; leave it out"
        raise ValueError(f"{path}: sample {bad[0]} has {fault} ({len(bad)} of {len(data)} do)")
    if labels is None:
        return Data(torch.from_numpy(samples))
    return Data(torch.from_numpy(samples), torch.from_numpy(_labels(path, labels, len(data))))


def _table(path: Path) -> dict[str, NDArray[Any]]:
    """The columns of a text file of numbers: data [N, columns], and labels [N] where one is."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(n, row) for n, row in enumerate(csv.reader(file), 1) if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: no text of numbers between commas: {error}") from None
    names: list[str] = []
    if lines and not any(map(_is_number, lines[0][1])):
        names = [name.strip().lower() for name in lines.pop(0)[1]]
    if not lines:
        raise ValueError(f"{path}: expected lines of numbers between commas, found none")
    width = len(names or lines[0][1])
    for n, row in lines:
        if len(row) != width:
            raise ValueError(f"{path}: line {n}: expected {width} numbers, found {len(row)}")
        bad = [text for text in row if text.strip() and not _is_number(text)]
        if bad:
            raise ValueError(
                f"{path}: line {n}: {bad[0]!r} is no number; leave it out, or encode it"
            )
        if not all(text.strip() for text in row):
            raise ValueError(f"{path}: line {n}: a number is missing; leave the line out")
    values = np.array([[float(text) for text in row] for _, row in lines])
    found = [k for k, name in enumerate(names) if name in ("label", "labels")]
    if len(found) != 1:
        return {"data": values}
    return {"data": np.delete(values, found[0], 1), "labels": values[:, found[0]]}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _labels(path: Path, labels: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Labels as whole numbers [N], none so large that most classes must be empty."""
    where = f"{path}: labels: expected whole numbers >= 0, one for each of {count} samples, "
    if labels.shape != (count,):
        remedy = "; give labels.argmax(1) of rows of zeros and ones, labels.ravel() of a column"
        raise ValueError(f"{where}got {list(labels.shape)}{remedy}")
    remedy = "number the classes, with numpy.unique(labels, return_inverse=True)[1]"
    if labels.dtype.kind not in "biuf":
        raise ValueError(f"{where}got {labels.dtype}; {remedy}")
    most = max(count, MOST_CLASSES)
    good = (labels >= 0) & (labels < most) & (labels == np.floor(labels))
    if not good.all():
        k = int(np.argmin(good))
        reason = "" if not labels[k] >= most else f", too high for {count} samples"
        raise ValueError(f"{where}got {labels[k]} for sample {k}{reason}; {remedy}")
    return labels.astype(np.int64)
