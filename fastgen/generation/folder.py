"""A set of samples on the disk: a manifest, a record of each whole shard, and the shards.

::

    manifest.json            what the samples are of; when all are there, every shard's checksum
    000000.npz ...           the shards
    records/000000.json      written after its shard: what has one is whole
    records/000000.begun     while it is drawn
    records/000000.safetensors   moments or features, where statistics are wanted
    statistics.npz           mu and sigma of all
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgen.common.display import displayed
from fastgen.common.files import read_safetensors, replacing, write_safetensors
from fastgen.common.version import VERSION
from fastgen.generation.formats.block import Block, Layout, channels_last
from fastgen.generation.formats.files import Format, write_npz_of
from fastgen.generation.formats.table import format_named
from fastgen.generation.identity import canonical
from fastgen.generation.statistics import Moments

MANIFEST, RECORDS, STATISTICS = "manifest.json", "records", "statistics.npz"
KIND = "fastgen_generation"
# What is said of a fact of another run, and what to do.
REMEDY = "give another folder, or what it was begun with"
NAMES = {"sampler": "noise, dtype, transform or backend", "features": "features of the statistics"}


class Folder:
    """The folder, for one format and layout."""

    def __init__(self, path: Path, kind: Format, layout: Layout) -> None:
        self.path, self.kind, self.layout = path, kind, layout
        self._whole: set[int] = set()  # seen here, as of the size that is recorded

    def begin(self, facts: Mapping[str, Any], labels: dict[int, str | None]) -> dict[str, Any]:
        """Compare the manifest with these facts, or write one; what it says.

        Args:
            facts: what decides the bits.
            labels: hashes of the first labels, by how many these are: of this run, and of the
                manifest's number of samples.

        Raises:
            ValueError: naming what differs from the run that began the folder.
        """
        path, found = self.path / MANIFEST, read_manifest(self.path)
        count, drawn = self.layout.count, any((self.path / RECORDS).glob("*.json"))
        remedy = REMEDY if drawn else f"{REMEDY}; or remove this one, which has no shard yet"
        if found is None:
            if drawn:
                raise ValueError(f"{path}: missing, though there are shards; {remedy}")
            found = {KIND: 1, "format": self.kind.name, **facts}
            found |= {"threads": torch.get_num_threads(), "versions": versions()}
        else:
            there, here = found.get("format"), self.kind.name
            if there != here:
                raise ValueError(f"{path}: format {there!r} there, {here!r} here; {remedy}")
            _compare(path, found, facts, remedy)
            if found["count"] > count:
                raise ValueError(
                    f"{path}: {found['count']} samples there, count={count} here; give at least as "
                    "many, or another folder"
                )
            if found["labels_sha256"] != labels[found["count"]]:
                raise ValueError(f"{path}: other labels there; {remedy}")
            if found["count"] == count:
                return found
        begun: dict[str, Any] = {
            "count": count,
            "labels_sha256": labels[count],
            "complete": False,
            "shards": [],
        }
        found |= begun
        found.pop("statistics", None)
        self.kind.begin(self.path, self.layout)
        with replacing(path) as file:
            file.write(canonical(found).encode())
        return found

    def missing(self, k: int, closely: bool = False) -> bool:
        """Whether a shard is not there as its record says.

        closely: read it all. What is damaged loses its record, so that nobody counts on it, and is
        named on stderr.
        """
        if k in self._whole and not closely:
            return False
        record = self._record(k)
        if record is None or record["count"] != self.layout.rows(k):
            return True
        why = self._fault(k, record, closely)
        if why is None:
            self._whole.add(k)
            return False
        if self._record(k) != record:  # another process drew it meanwhile
            return self.missing(k, closely)
        print(f"{self.path / self.kind.entry(k)}: {why}; drawn again", file=sys.stderr, flush=True)
        self._whole.discard(k)
        self._path(k, "json").unlink(missing_ok=True)
        return True

    def _fault(self, k: int, record: Mapping[str, Any], closely: bool) -> str | None:
        try:
            size = self.kind.size(self.path, k)
            if size != record["bytes"]:
                return f"{size} bytes, {record['bytes']} were written"
            if closely and self.kind.digest(self.path, k) != record["sha256"]:
                return "damaged, its checksum does not fit"
            if record["features"] and not self._path(k, "safetensors").exists():
                return "its statistics are missing"
            if record["features"] and closely:
                read_safetensors(self._path(k, "safetensors"))
        except (OSError, ValueError) as error:
            return f"not readable ({error})"
        return None

    def write(
        self, k: int, block: Block, features: NDArray[np.float32] | None, keep: bool, device: str
    ) -> None:
        """Put a shard on the disk, its record last.

        Raises:
            OSError: of the file system, naming the shard.
        """
        try:
            self._write(k, block, features, keep, device)
        except OSError as error:  # a full disk names no file by itself
            error.filename = error.filename or str(self.path / self.kind.entry(k))
            raise

    def _write(
        self, k: int, block: Block, features: NDArray[np.float32] | None, keep: bool, device: str
    ) -> None:
        self.kind.write(self.path, k, block)
        if features is not None:
            write_safetensors(self._path(k, "safetensors"), _tensors(features, keep), {})
        record = {
            "count": len(block),
            "bytes": self.kind.size(self.path, k),
            "sha256": self.kind.digest(self.path, k),
            "features": features is not None,
            "device": device,
        }
        with replacing(self._path(k, "json")) as file:
            file.write(canonical(record).encode())
        self._path(k, "begun").unlink(missing_ok=True)
        self._whole.add(k)

    def begun(self, k: int) -> bool:
        """Whether some process has said that it draws a shard; it may have been killed since."""
        return self._path(k, "begun").exists()

    def claim(self, k: int) -> None:
        """Say that this process draws a shard."""
        (self.path / RECORDS).mkdir(parents=True, exist_ok=True)
        self._path(k, "begun").touch()

    def gone(self) -> list[int]:
        """Shards whose record another process has taken away since it was seen."""
        found = [k for k in range(self.layout.shards) if self._record(k) is None]
        self._whole.difference_update(found)
        return found

    def finish(self, manifest: dict[str, Any], found: Mapping[str, Any] | None) -> None:
        """Write the manifest of the whole set; found: what statistics say."""
        layout, shards, devices = self.layout, [], set()
        for k in range(layout.shards):
            record = self._record(k)
            if record is None:
                raise ValueError(f"{self.path}: shard {k} has gone; run the same again")
            first = {"name": self.kind.entry(k), "first": layout.first(k)}
            shards.append({**first, **{key: record[key] for key in ("count", "bytes", "sha256")}})
            devices.add(record["device"])
        ends = {"complete": True, "shards": shards, "devices": sorted(devices)}
        ends |= {} if found is None else {"statistics": dict(found)}
        with replacing(self.path / MANIFEST) as file:
            file.write(canonical({**manifest, **ends}).encode())
        for left in (self.path / RECORDS).glob("*.begun"):  # by processes that were killed
            left.unlink(missing_ok=True)

    def moments(self) -> Moments:
        """Of all features, merged in the order of the shards."""
        merged: Moments | None = None
        for k in range(self.layout.shards):
            found = self._statistics(k)
            own = Moments.of(found["features"]) if "features" in found else None
            if own is None:
                scatter = _square(found["scatter"], len(found["mean"]))
                own = Moments(int(found["count"]), found["mean"], scatter)
            merged = own if merged is None else merged.with_others(own)
        assert merged is not None
        return merged

    def features(self) -> Tensor:
        """All features [count, D], which take 4 D bytes a sample."""
        return torch.cat([self._statistics(k)["features"] for k in range(self.layout.shards)])

    def _statistics(self, k: int) -> dict[str, Tensor]:
        return read_safetensors(self._path(k, "safetensors"))[0]

    def device(self, k: int) -> str:
        """What drew a shard."""
        record = self._record(k)
        return "unknown" if record is None else str(record["device"])

    def _record(self, k: int) -> dict[str, Any] | None:
        try:
            found = json.loads(self._path(k, "json").read_bytes())
        except (FileNotFoundError, ValueError):  # ValueError: of a disk that lost power
            return None
        known = {"count", "bytes", "sha256", "features", "device"}
        return found if isinstance(found, dict) and known <= found.keys() else None

    def _path(self, k: int, suffix: str) -> Path:
        return self.path / RECORDS / f"{k:06d}.{suffix}"

    def done(self) -> int:
        """Samples that are on the disk."""
        return sum(self.layout.rows(k) for k in range(self.layout.shards) if not self.missing(k))


def _tensors(features: NDArray[np.float32], keep: bool) -> dict[str, Tensor]:
    """Features of a shard, or their moments where these take less room."""
    n, width = features.shape
    if keep or 4 * n * width <= 8 * width * (width + 1) // 2:
        return {"features": torch.from_numpy(features)}
    found = Moments.of(torch.from_numpy(features))
    rows, columns = torch.triu_indices(width, width, device="cpu")
    half = found.scatter[rows, columns]
    return {"count": torch.tensor(n, device="cpu"), "mean": found.mean, "scatter": half}


def _square(half: Tensor, width: int) -> Tensor:
    """A symmetric matrix of its upper half."""
    rows, columns = torch.triu_indices(width, width, device="cpu")
    found = torch.empty(width, width, dtype=half.dtype, device="cpu")
    found[rows, columns] = half
    found[columns, rows] = half
    return found


def _compare(path: Path, there: Mapping[str, Any], here: Mapping[str, Any], remedy: str) -> None:
    here = json.loads(json.dumps(dict(here)))
    for key, value in here.items():
        if there.get(key) == value:
            continue
        name = NAMES.get(key, key)
        long = not isinstance(value, (str, int, list)) or len(str(value)) > 40
        shown = "" if long else f": {there.get(key)} there, {value} here"
        raise ValueError(f"{path}: begun with another {name}{shown}; {remedy}")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What a folder's manifest says; None where there is none.

    Raises:
        ValueError: for a file that is something else.
    """
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path}: not a manifest ({error}); give another folder") from error
    if not isinstance(found, dict) or found.get(KIND) != 1:
        raise ValueError(f"{path}: not of fastgen.generate, version 1; give another folder")
    return found


def versions() -> dict[str, str]:
    """Of what took part."""
    return {
        "fastgen": VERSION,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": str(np.__version__),
    }


@displayed
class Generated:
    """A set of samples in a folder, as `fastgen.generate` left it.

    ``len(found)`` is how many there are to be; ``for block in found`` goes over the shards.

    Raises:
        FileNotFoundError: where there is no manifest.
        ValueError: where it is of something else.
    """

    def __init__(self, folder: Path | str) -> None:
        self.path = Path(folder)
        found = read_manifest(self.path)
        if found is None:
            raise FileNotFoundError(f"{self.path / MANIFEST}: no such file")
        self.manifest = found

    def _facts(self) -> dict[str, Any]:
        found = self.manifest
        facts: dict[str, Any] = {
            "path": str(self.path),
            "count": found["count"],
            "complete": found["complete"],
        }
        facts |= {"shape": tuple(found["shape"]), "dtype": found["dtype"]}
        facts |= {"format": found["format"], "seed": found["seed"]}
        facts |= self.statistics or {}
        return facts

    @property
    def folder(self) -> Folder:
        """The shards."""
        found = self.manifest
        labelled = found["labels"] is not None
        parts = found["dtype"], found["count"], found["shard"], labelled
        layout = Layout(tuple(found["shape"]), *parts)
        return Folder(self.path, format_named(found["format"]), layout)

    @property
    def statistics(self) -> dict[str, Any] | None:
        """Numbers of the whole set, where they were asked for."""
        found: dict[str, Any] | None = self.manifest.get("statistics")
        return found

    def __len__(self) -> int:
        return int(self.manifest["count"])

    def __iter__(self) -> Iterator[Block]:
        folder = self.folder
        for k in range(folder.layout.shards):
            yield folder.kind.read(self.path, k, folder.layout.first(k))

    def samples(self) -> Tensor:
        """All samples [count, ...], in memory."""
        return torch.from_numpy(np.concatenate([block.samples for block in self]))

    def labels(self) -> Tensor | None:
        """All labels [count], where there are some."""
        parts = [block.labels for block in self]
        known = [part for part in parts if part is not None]
        return torch.from_numpy(np.concatenate(known)) if known else None

    def join(self, path: Path | str) -> None:
        """Write one npz of all: ``arr_0`` [count, H, W, C] and ``arr_1``, as ADM's evaluator reads.

        No more than a shard is in memory.

        Raises:
            ValueError: if the set is not complete.
        """
        if not self.manifest["complete"]:
            raise ValueError(f"{self.path}: not complete; run `fastgen generate` again first")
        shape = tuple(self.manifest["shape"])
        last = (*shape[1:], shape[0]) if len(shape) == 3 else shape
        parts = (channels_last(block.samples) for block in self)
        labels = self.labels()
        write_npz_of(
            Path(path),
            (len(self), *last),
            self.manifest["dtype"],
            parts,
            None if labels is None else labels.numpy(),
        )
