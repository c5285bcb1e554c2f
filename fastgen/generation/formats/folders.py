"""Shards that are more than one file: a folder of pictures, and a part of a Zarr array."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from fastgen.common.files import replacing_folder
from fastgen.generation.formats.block import Block, Layout
from fastgen.generation.formats.images import decoded, encoded

LABELS = "labels.json"


class PngFolder:
    """A folder for each shard, in it 000000000012.png, and labels.json by the files' names."""

    name, images = "png", True

    def begin(self, folder: Path, layout: Layout) -> None:
        """Nothing is shared."""

    def entry(self, k: int) -> str:
        """The folder's name."""
        return f"{k:06d}"

    def write(self, folder: Path, k: int, block: Block) -> None:
        """Whole or not at all."""
        with replacing_folder(folder / self.entry(k)) as made:
            for row, sample in enumerate(block.samples):
                (made / f"{block.first + row:012d}.png").write_bytes(encoded(sample))
            if block.labels is not None:
                names = {f"{block.first + i:012d}.png": int(x) for i, x in enumerate(block.labels)}
                (made / LABELS).write_text(json.dumps(names))

    def _files(self, folder: Path, k: int) -> list[Path]:
        target = folder / self.entry(k)
        if not target.is_dir():
            raise FileNotFoundError(f"{target}: no such folder")
        return sorted(target.iterdir())

    def read(self, folder: Path, k: int, first: int) -> Block:
        """All pictures, in their order."""
        files = self._files(folder, k)
        samples = np.stack([decoded(f.read_bytes()) for f in files if f.suffix == ".png"])
        labels = None
        if (folder / self.entry(k) / LABELS).exists():
            found = json.loads((folder / self.entry(k) / LABELS).read_bytes())
            labels = np.array([found[f.name] for f in files if f.suffix == ".png"], dtype=np.int64)
        return Block(first, samples, labels)

    def digest(self, folder: Path, k: int) -> str:
        """Over names, sizes and contents."""
        found = hashlib.sha256()
        for file in self._files(folder, k):
            content = file.read_bytes()
            found.update(f"{file.name} {len(content)}\n".encode())
            found.update(content)
        return found.hexdigest()

    def size(self, folder: Path, k: int) -> int:
        """Of all files."""
        return sum(file.stat().st_size for file in self._files(folder, k))


class Zarr:
    """One Zarr array ``samples.zarr`` [count, ...] and ``labels.zarr``, a chunk for each shard."""

    name, images = "zarr", False

    def begin(self, folder: Path, layout: Layout) -> None:
        """Make the arrays, or give them more rows."""
        zarr = _zarr()
        sizes: dict[str, Any] = {"samples": (layout.shape, layout.dtype)}
        sizes |= {"labels": ((), "int64")} if layout.labelled else {}
        for name, (part, kind) in sizes.items():
            path = folder / f"{name}.zarr"
            whole, chunks = (layout.count, *part), (layout.shard, *part)
            if not (path / "zarr.json").exists():
                zarr.create_array(path, shape=whole, chunks=chunks, dtype=kind, fill_value=0)
            array = zarr.open_array(path, mode="r+")
            if array.shape[0] < layout.count:
                array.resize(whole)

    def entry(self, k: int) -> str:
        """The chunk, as messages and the manifest name it."""
        return f"samples.zarr/{k}"

    def _rows(self, array: Any, k: int) -> slice:
        shard = array.chunks[0]
        return slice(k * shard, min((k + 1) * shard, array.shape[0]))

    def _array(self, folder: Path, name: str = "samples", mode: str = "r") -> Any:
        return _zarr().open_array(folder / f"{name}.zarr", mode=mode)

    def write(self, folder: Path, k: int, block: Block) -> None:
        """The chunks; what was cut short is written again, since nothing records it as whole."""
        samples = self._array(folder, mode="r+")
        samples[block.first : block.first + len(block)] = block.samples
        if block.labels is not None:
            labels = self._array(folder, "labels", "r+")
            labels[block.first : block.first + len(block)] = block.labels

    def read(self, folder: Path, k: int, first: int) -> Block:
        """The rows of one chunk."""
        array = self._array(folder)
        rows = self._rows(array, k)
        labelled = (folder / "labels.zarr").exists()
        return Block(first, array[rows], self._array(folder, "labels")[rows] if labelled else None)

    def digest(self, folder: Path, k: int) -> str:
        """Over the numbers, whatever they are compressed by; FileNotFoundError if damaged."""
        try:
            block = self.read(folder, k, 0)
        except Exception as error:  # of whichever codec a cut chunk fails in
            raise FileNotFoundError(f"{folder / self.entry(k)}: not readable ({error})") from error
        found = hashlib.sha256(np.ascontiguousarray(block.samples).tobytes())
        if block.labels is not None:
            found.update(np.ascontiguousarray(block.labels).tobytes())
        return found.hexdigest()

    def size(self, folder: Path, k: int) -> int:
        """Of the chunk's file; a chunk of zeros has none."""
        found = [p for p in (folder / "samples.zarr" / "c" / str(k)).rglob("*") if p.is_file()]
        return sum(p.stat().st_size for p in found)


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise ImportError("format='zarr' needs zarr: pip install 'zarr>=3'") from error
    return zarr
