"""Shards that are one file each: NumPy's npz, safetensors, tar files as WebDataset reads them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from fastgen.common.files import read_safetensors, replacing, write_safetensors
from fastgen.generation.formats.block import Block, Layout, channels_first, channels_last
from fastgen.generation.formats.images import decoded, encoded


class Format(Protocol):
    """How the shards of a folder are written and read.

    images: whether samples must be pictures of whole numbers from 0 to 255.
    """

    name: str
    images: bool

    def begin(self, folder: Path, layout: Layout) -> None:
        """Make what all shards share, if there is something; any number of processes may."""

    def entry(self, k: int) -> str:
        """What the shard is called in the folder."""

    def write(self, folder: Path, k: int, block: Block) -> None:
        """Write a shard, whole or not at all."""

    def read(self, folder: Path, k: int, first: int) -> Block:
        """A shard as it was written."""

    def digest(self, folder: Path, k: int) -> str:
        """SHA-256 of what is there; FileNotFoundError if nothing is."""

    def size(self, folder: Path, k: int) -> int:
        """Bytes of what is there, without reading it; FileNotFoundError if nothing is."""


class OneFile:
    """What formats of one file for each shard share."""

    name, suffix, images = "", "", False

    def begin(self, folder: Path, layout: Layout) -> None:
        """Nothing is shared."""

    def entry(self, k: int) -> str:
        """The file's name."""
        return f"{k:06d}{self.suffix}"

    def digest(self, folder: Path, k: int) -> str:
        """Of the file."""
        with (folder / self.entry(k)).open("rb") as file:
            found = hashlib.sha256()
            while part := file.read(1 << 22):
                found.update(part)
            return found.hexdigest()

    def size(self, folder: Path, k: int) -> int:
        """Of the file."""
        return (folder / self.entry(k)).stat().st_size


class Npz(OneFile):
    """``arr_0`` the samples, images as [n, H, W, C]; ``arr_1`` the labels: ADM's layout."""

    name, suffix = "npz", ".npz"

    def write(self, folder: Path, k: int, block: Block) -> None:
        """As `numpy.savez` does."""
        arrays = [channels_last(block.samples)]
        arrays += [] if block.labels is None else [block.labels]
        with replacing(folder / self.entry(k)) as file:
            np.savez(file, *arrays)

    def read(self, folder: Path, k: int, first: int) -> Block:
        """As `numpy.load` does, without pickles."""
        with np.load(folder / self.entry(k), allow_pickle=False) as found:
            labels = found.get("arr_1")
            return Block(first, channels_first(found["arr_0"]), labels)


class Safetensors(OneFile):
    """``samples`` [n, ...], ``labels`` and ``ids``, with a checksum in the metadata."""

    name, suffix = "safetensors", ".safetensors"

    def write(self, folder: Path, k: int, block: Block) -> None:
        """As `write_safetensors` does."""
        tensors = {"samples": torch.from_numpy(block.samples)}
        tensors["ids"] = torch.arange(block.first, block.first + len(block), device="cpu")
        if block.labels is not None:
            tensors["labels"] = torch.from_numpy(block.labels)
        write_safetensors(folder / self.entry(k), tensors, {"fastgen_shard": str(k)})

    def read(self, folder: Path, k: int, first: int) -> Block:
        """As `read_safetensors` does."""
        found = read_safetensors(folder / self.entry(k))[0]
        labels = found["labels"].numpy() if "labels" in found else None
        return Block(first, found["samples"].numpy(), labels)


class WebDataset(OneFile):
    """A tar with 000000000012.png (or .npy), .json and, of labels, .cls for each sample."""

    name, suffix = "webdataset", ".tar"

    def write(self, folder: Path, k: int, block: Block) -> None:
        """With no times or owners in the headers: equal samples give equal bytes."""
        with (
            replacing(folder / self.entry(k)) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for row in range(len(block)):
                stem = f"{block.first + row:012d}"
                facts: dict[str, Any] = {"id": block.first + row}
                parts = {_kind(block.samples[row]): _stored(block.samples[row])}
                if block.labels is not None:
                    facts["label"] = int(block.labels[row])
                    parts["cls"] = str(facts["label"]).encode()
                parts["json"] = json.dumps(facts).encode()
                for kind, content in parts.items():
                    head = tarfile.TarInfo(f"{stem}.{kind}")
                    head.size = len(content)
                    tar.addfile(head, io.BytesIO(content))

    def read(self, folder: Path, k: int, first: int) -> Block:
        """All samples of the tar, in their order."""
        samples: list[np.ndarray] = []
        labels: list[int] = []
        for name, content in _contents(folder / self.entry(k)):
            kind = name.rpartition(".")[2]
            if kind == "png":
                samples.append(decoded(content))
            elif kind == "npy":
                samples.append(np.load(io.BytesIO(content), allow_pickle=False))
            elif kind == "cls":
                labels.append(int(content))
        return Block(first, np.stack(samples), np.array(labels, dtype=np.int64) if labels else None)


def _kind(sample: np.ndarray) -> str:
    picture = sample.dtype == np.uint8 and sample.ndim == 3 and sample.shape[0] in (1, 3, 4)
    return "png" if picture else "npy"


def _stored(sample: np.ndarray) -> bytes:
    if _kind(sample) == "png":
        return encoded(sample)
    made = io.BytesIO()
    np.save(made, sample)
    return made.getvalue()


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None:
                yield member.name, file.read()


def write_npz_of(
    path: Path, shape: tuple[int, ...], dtype: Any, parts: Iterator[np.ndarray], labels: Any
) -> None:
    """One npz of an array that comes in parts, [n, ...] in all, and perhaps one of labels."""
    with (
        replacing(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as entry:
            head = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(entry, head)
            for part in parts:
                entry.write(np.ascontiguousarray(part).tobytes())
        if labels is not None:
            with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as entry:
                np.lib.format.write_array(entry, labels)
