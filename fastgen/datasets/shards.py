"""Tar archives in WebDataset's layout, read by number: the parts of a sample share a name.

WebDataset streams shards in an order of its own, which cannot be gone on with in the middle. The
archives have all that is needed for reading by number: where each file begins. That is gathered
once, from the headers; then a sample is one or two reads at known places.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgen.common.display import displayed
from fastgen.datasets.images import SUFFIXES, read_image

LABEL = ".cls"
ARRAY = ".npy"


@displayed
class Shards:
    """Samples of tar archives, in the archives' order: ``Shards(["a-000.tar", "a-001.tar"])``.

    A sample is what files of one name but for the suffix make: an image (.png, .jpg ...; [C, H, W]
    in [-1, 1]) or an array (.npy, floating), and perhaps its class, a number in a .cls file. Other
    parts are left alone. Archives are not compressed, as WebDataset's need not be.

    Args:
        paths: of the archives; their order is that of the samples.

    Raises:
        ValueError: for a damaged archive, one without samples, or labels of some samples only.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self.paths = [Path(p) for p in ([paths] if isinstance(paths, (str, Path)) else paths)]
        self._places: list[tuple[int, str, int, int]] = []  # archive, name, offset, size
        labels: list[int] = []
        for number, path in enumerate(self.paths):
            for name, parts in _samples(path):
                if LABEL in parts:
                    labels.append(_class(path, name, *parts.pop(LABEL)))
                kinds = [k for k in parts if k in SUFFIXES or k == ARRAY]
                if len(kinds) != 1:
                    raise ValueError(
                        f"{path}: {name}: expected one image or .npy, found {sorted(parts)}"
                    )
                self._places.append((number, name + kinds[0], *parts[kinds[0]]))
        if not self._places:
            raise ValueError(f"{self.paths}: no samples in them")
        if labels and len(labels) != len(self._places):
            raise ValueError(
                f"{self.paths[0]}: {len(labels)} of {len(self._places)} samples have a class "
                "(.cls); give all of them one, or none"
            )
        self.labels = torch.tensor(labels, device="cpu") if labels else None
        self._files: dict[int, Any] = {}
        self.shape = tuple(self._sample(0).shape)

    def _facts(self) -> dict[str, Any]:
        return {"archives": len(self.paths), "count": len(self), "shape": self.shape}

    def __len__(self) -> int:
        return len(self._places)

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """The samples of these numbers, float32 [n, ...]."""
        found = []
        for k in numbers:
            found.append(self._sample(int(k)))
            if tuple(found[-1].shape) != self.shape:
                raise ValueError(
                    f"{self._name(k)}: is {list(found[-1].shape)}, the first sample is "
                    f"{list(self.shape)}; bring all to one size"
                )
        return torch.stack(found) if found else torch.empty(0, *self.shape, device="cpu")

    def _name(self, number: int) -> str:
        archive, name, _, _ = self._places[number]
        return f"{self.paths[archive]}: {name}"

    def _sample(self, number: int) -> Tensor:
        archive, name, offset, size = self._places[number]
        if archive not in self._files:
            self._files[archive] = self.paths[archive].open("rb")
        file = self._files[archive]
        file.seek(offset)
        held = file.read(size)
        if len(held) != size:
            raise ValueError(f"{self._name(number)}: cut off; restore the archive from a copy")
        if not name.endswith(ARRAY):
            return torch.from_numpy(read_image(io.BytesIO(held), self._name(number)))
        try:
            found = np.load(io.BytesIO(held), allow_pickle=False)
        except Exception as error:  # what numpy makes of a damaged header
            raise ValueError(f"{self._name(number)}: no array ({error})") from error
        if not np.issubdtype(found.dtype, np.floating):
            raise ValueError(f"{self._name(number)}: expected floating numbers, got {found.dtype}")
        return torch.from_numpy(found.astype(np.float32))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}  # each process opens its own


def _samples(path: Path) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    """Names, and of each part by its suffix where it lies and how long it is."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, last = member.name.rpartition("/")
                stem, dot, suffix = last.partition(".")  # WebDataset's rule: the first dot
                name = f"{folder}/{stem}" if folder else stem
                found.setdefault(name, {})[(dot + suffix).lower()] = (
                    member.offset_data,
                    member.size,
                )
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not a whole tar archive ({error}); compressed?") from error
    return list(found.items())


def _class(path: Path, name: str, offset: int, size: int) -> int:
    with path.open("rb") as file:
        file.seek(offset)
        text = file.read(min(size, 32)).strip()
    if not text.isdigit():
        raise ValueError(f"{path}: {name}{LABEL}: expected a whole number >= 0, got {text!r}")
    return int(text)
