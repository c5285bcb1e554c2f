"""Sets that lie on a disk: samples are read by their numbers, when a batch needs them.

Every set here has a length, the ``shape`` of a sample, ``labels`` (int64 [N] or None), and
``rows(numbers)``, which reads some samples. So a training run's order is that of numbers, the same
whoever reads, and a run goes on in the middle without reading what came before.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgen.common.arrays import MappedReads
from fastgen.common.display import displayed
from fastgen.common.errors import nearest
from fastgen.datasets.images import class_numbers, images_below, read_image


class Records(Protocol):
    """What a trainer reads from; any class with these will do."""

    shape: tuple[int, ...]
    labels: Tensor | None

    def __len__(self) -> int:
        """How many samples there are."""

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """The samples of these numbers, floating [n, ...].

        Raises:
            ValueError, OSError: naming a sample that cannot be read.
        """


@displayed
class Arrays:
    """An array [N, ...] that is not in memory: of a file, memory-mapped, of Zarr, of h5py.

    Values are turned into float32 as they are: those of bytes are 0 to 255 (give a trainer
    ``scaling=Scaling.of(data)``). `open` reads the rows of an .npy file at their places, so that a
    process does not grow with what it has read; the pages of an array that you mapped yourself are
    given back to the system after every 64 MiB.

    Args:
        array: with shape, dtype, and ``array[sorted numbers]``.
        labels: whole numbers >= 0, [N].
        name: of the set in messages.

    Raises:
        TypeError, ValueError: for another kind of array or labels.

    Example:
        >>> import numpy as np
        >>> fastgen.datasets.Arrays(np.zeros((8, 3), np.float16)).rows([5, 2]).shape
        torch.Size([2, 3])
    """

    def __init__(self, array: Any, labels: Any = None, *, name: str = "array") -> None:
        shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
        if shape is None or dtype is None:
            raise TypeError(f"{name}: expected an array with shape and dtype, got {type(array)}")
        if len(shape) < 2 or 0 in shape or np.dtype(dtype).kind not in "fiu":
            raise ValueError(
                f"{name}: expected numbers [N, ...] without an axis of 0, got {dtype} {list(shape)}"
            )
        self.array, self.name = array, name
        self.shape = tuple(int(n) for n in shape[1:])
        self.labels = None if labels is None else _labels(labels, int(shape[0]), name)
        self._reads = MappedReads(array)

    def _facts(self) -> dict[str, Any]:
        return {"name": self.name, "count": len(self), "shape": self.shape, "labels": self.labels}

    @classmethod
    def open(cls, path: str | Path, labels: Any = None) -> Arrays:
        """An .npy file, or a folder of Zarr (needs zarr).

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is neither.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        if path.suffix == ".zarr" or path.is_dir():
            import zarr

            return cls(zarr.open_array(str(path), mode="r"), labels, name=str(path))
        return cls(_opened(path), labels, name=str(path))

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """The samples of these numbers, float32 [n, ...]."""
        chosen = np.asarray(numbers, dtype=np.int64)
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(f"{self.name}: samples 0 to {len(self) - 1}, got {chosen.max()}")
        sorted_numbers, places = np.unique(chosen, return_inverse=True)
        found: NDArray[Any] = np.asarray(self._chosen(sorted_numbers))
        self._reads.add(found.nbytes)
        with np.errstate(over="ignore"):  # beyond float32: infinite, which is found out later
            return torch.from_numpy(found[places].astype(np.float32))

    def _chosen(self, numbers: NDArray[np.int64]) -> Any:
        if isinstance(self.array, np.ndarray):
            return self.array[numbers]
        orthogonal = getattr(self.array, "oindex", None)  # of Zarr
        return self.array[numbers] if orthogonal is None else orthogonal[numbers]


class _Rows:
    """The array of an .npy file, whose rows are read at their places in it."""

    def __init__(self, path: Path, mapped: np.memmap[Any, Any]) -> None:
        self.path, self.shape, self.dtype = path, mapped.shape, mapped.dtype
        self.offset, self._file = mapped.offset, -1

    def __getitem__(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        if self._file < 0:
            self._file = os.open(self.path, os.O_RDONLY)
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        found = np.empty((len(numbers), size), np.uint8)
        for row, number in zip(found, numbers, strict=True):
            held = os.preadv(self._file, [row], self.offset + int(number) * size)
            if held != size:
                raise ValueError(f"{self.path}: sample {number} is cut off; restore the file")
        shaped: NDArray[Any] = found.view(self.dtype).reshape(len(numbers), *self.shape[1:])
        return shaped

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": -1}  # another process opens the file itself

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)


def _opened(path: Path) -> Any:
    """The array of an .npy file, without reading it."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a whole .npy file of numbers ({error})") from error
    if not isinstance(found, np.memmap):
        raise ValueError(f"{path}: an archive of arrays is not read by number; save one as .npy")
    if hasattr(os, "preadv") and found.ndim > 1 and found.size and found.flags.c_contiguous:
        return _Rows(path, found)
    return found


@displayed
class Images:
    """A folder of images that are read when they are needed, [C, H, W] in [-1, 1] each.

    The rules are those of `fastgen.datasets.load` for folders: subfolders are classes, and nothing
    is read as what it is not. Only the first image is looked at before training.

    Raises:
        ValueError, OSError: naming a file that cannot be used.
    """

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder)
        self.files = images_below(path)
        self.labels = class_numbers(path, self.files)
        self.folder, self.shape = path, tuple(read_image(self.files[0]).shape)

    def _facts(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "count": len(self), "shape": self.shape}

    def __len__(self) -> int:
        return len(self.files)

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """The images of these numbers, float32 [n, C, H, W]."""
        found = [torch.from_numpy(read_image(self.files[k])) for k in numbers]
        return _stacked(found, self.shape, [self.files[k] for k in numbers])


@displayed
class Items:
    """Any set with a length and items: of torchvision, of Hugging Face's datasets, your own.

    An item is a sample, or (sample, label), or a dictionary of columns. Samples are floating
    tensors or arrays of one shape, or images of Pillow, which become [C, H, W] in [-1, 1].

    Args:
        items: with ``len(items)`` and ``items[k]``; ``items[[k, ...]]`` of Hugging Face's datasets
            is used where columns are named.
        column: of the samples, in dictionaries.
        label: column of the labels, or None.
        labels: of all samples [N], where they are known beforehand: classes can only be balanced
            then. Of Hugging Face's datasets they are read from the column.

    Raises:
        TypeError, ValueError: naming what does not fit.
    """

    def __init__(
        self, items: Any, column: str | None = None, label: str | None = None, labels: Any = None
    ) -> None:
        if not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
            raise TypeError(
                f"items: expected a set with a length and numbered items, got {type(items)}; a "
                "stream has no order that could be gone on with: download it, or write it to .npy, "
                "Zarr or tar"
            )
        if not len(items):
            raise ValueError("items: expected at least one, got none")
        self.items, self.column, self.label = items, column, label
        if labels is None and label is not None:
            labels = items[label]
        self.labels = None if labels is None else _labels(labels, len(items), "items")
        self.shape = tuple(self._sample(items[0], 0).shape)

    def _facts(self) -> dict[str, Any]:
        return {"items": type(self.items).__name__, "count": len(self), "shape": self.shape}

    def __len__(self) -> int:
        return len(self.items)

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """The samples of these numbers, [n, ...]."""
        found = [self._sample(self.items[int(k)], int(k)) for k in numbers]
        return _stacked(found, self.shape, numbers)

    def _sample(self, item: Any, number: int) -> Tensor:
        if isinstance(item, dict):
            if self.column is None or self.column not in item:
                known = nearest(self.column or "", list(item))
                raise ValueError(f"column={self.column!r}: name that of the samples; {known}")
            item = item[self.column]
        elif isinstance(item, (tuple, list)):
            item = item[0]
        if hasattr(item, "getbands"):  # an image of Pillow
            from fastgen.datasets.images import pixels_of

            return torch.from_numpy(pixels_of(item, f"item {number}"))
        x = item if isinstance(item, Tensor) else torch.as_tensor(np.asarray(item), device="cpu")
        if not x.is_floating_point():
            raise ValueError(
                f"item {number}: expected floating numbers or an image, got {x.dtype} "
                f"{list(x.shape)}; let the set convert it"
            )
        return x.float()


def _stacked(found: list[Tensor], shape: tuple[int, ...], names: Sequence[Any]) -> Tensor:
    """One tensor of samples that must be alike."""
    for x, name in zip(found, names, strict=True):
        if tuple(x.shape) != shape:
            raise ValueError(
                f"{name}: is {list(x.shape)}, the first sample is {list(shape)}; bring all to one "
                "size, and images all to grey or all to colour"
            )
    return torch.stack(found) if found else torch.empty(0, *shape, device="cpu")


def _labels(labels: Any, count: int, name: str) -> Tensor:
    found = labels
    if not isinstance(labels, Tensor):
        found = torch.as_tensor(np.asarray(labels), device="cpu")
    if found.shape != (count,) or found.is_floating_point() or found.is_complex():
        raise ValueError(
            f"{name}: labels: expected whole numbers, one for each of {count} samples, got "
            f"{found.dtype} {list(found.shape)}"
        )
    if int(found.min()) < 0:
        raise ValueError(f"{name}: labels: expected whole numbers >= 0, got {int(found.min())}")
    numbers: Tensor = found.long()
    return numbers
