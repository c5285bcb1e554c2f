"""Data by a name or a path: built-in sets, files of arrays and folders of images."""

from __future__ import annotations

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
from fastgen.datasets.sources import DIGITS, check_source

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


def load(source: str) -> Data:
    """A built-in set's name, an .npy or .npz file, or a folder of images.

    digits: the 8 x 8 digits of scikit-learn with labels, in [-1, 1]. .npz: one array of data of any
    name, and perhaps "labels". Folders: images of one size, as [C, H, W] in [-1, 1] (see
    `fastgen.datasets.images.load_folder`); the names of subfolders, sorted, are the classes.

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
    if path.is_dir():
        images, classes = load_folder(path)
        return Data(images, classes)
    return _array(path)


def _array(path: Path) -> Data:
    arrays = read_arrays(path)
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
