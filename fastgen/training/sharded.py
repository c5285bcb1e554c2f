"""Checkpoints as folders of `torch.distributed.checkpoint`: each process writes what it holds.

A folder has the last checkpoint in a folder of its own, and the file fastgen.json, which names it
and is written last: a run that is killed while it saves leaves the checkpoint before.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from fastgen.common.files import replacing

if TYPE_CHECKING:
    from fastgen.training.engine import Engine

POINTER = "fastgen.json"


def full(x: Tensor, *, keep: bool = True) -> Tensor:
    """A sharded tensor as a whole one, gathered by all; an empty one where it is not kept."""
    if not isinstance(x, DTensor):
        return x
    found = x.full_tensor()
    return found.cpu() if keep else torch.empty(0, device="cpu")


def placed(x: Tensor, like: Tensor) -> Tensor:
    """A tensor where another is, and sharded as that is; every process has all of it."""
    if not isinstance(like, DTensor) or isinstance(x, DTensor):
        return x.to(like.device)
    whole = x.to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    step: int,
    engine: Engine,
) -> None:
    """Write a checkpoint into a folder, whole or not at all; called by all processes."""
    from torch.distributed.checkpoint.state_dict_saver import save

    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path}: a file; name a folder, or a file that ends .safetensors")
    last = _pointer(path).get("folder") if (path / POINTER).is_file() else None
    name = f"step-{step:08d}"
    name = f"{name}-again" if name == last else name
    if not engine.rank:
        shutil.rmtree(path / name, ignore_errors=True)  # what a killed run left
        path.mkdir(parents=True, exist_ok=True)
    engine.wait()
    with _quietly():
        save(dict(tensors), checkpoint_id=path / name, no_dist=engine.processes == 1)
    if not engine.rank:
        facts = {"folder": name, **metadata}
        with replacing(path / POINTER) as file:
            file.write(json.dumps(facts, sort_keys=True).encode())
        for left in path.glob("step-*"):
            if left.name != name:
                shutil.rmtree(left, ignore_errors=True)
    engine.wait()


def read(
    path: Path, like: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `write` wrote, tensors and metadata: sharded as ``like``'s tensors, or whole.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is damaged, or its tensors are not of ``like``'s shapes and dtypes.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    facts = _pointer(path)
    folder = path / str(facts.pop("folder", ""))
    try:
        stored = FileSystemReader(folder).read_metadata().state_dict_metadata
    except Exception as error:  # whatever unpickling makes of a damaged file
        raise ValueError(f"{folder}: damaged ({error}); restore it from a copy") from error
    into: dict[str, Tensor] = {}
    for name, kind in stored.items():
        if not isinstance(kind, TensorStorageMetadata):
            raise ValueError(f"{folder}: {name} is no tensor; not a trainer's checkpoint")
        dtype, size = kind.properties.dtype, tuple(kind.size)
        known = None if like is None else like.get(name)
        if known is None:
            into[name] = torch.empty(size, dtype=dtype, device="cpu")
        elif known.dtype != dtype or tuple(known.shape) != size:
            raise ValueError(
                f"{path}: {name} is {dtype} {list(size)}, expected {known.dtype} "
                f"{list(known.shape)}: of another network"
            )
        else:
            into[name] = torch.empty_like(known)
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    try:
        with _quietly():
            load(into, checkpoint_id=folder, no_dist=alone)
    except CheckpointException as error:
        reasons = {str(reason) for reason, _ in error.failures.values()}
        raise ValueError(
            f"{folder}: damaged ({'; '.join(sorted(reasons))}); restore it from a copy"
        ) from error
    return into, facts


@contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's word that one process is meant, which it is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def _pointer(path: Path) -> dict[str, str]:
    file = path / POINTER
    if not file.is_file():
        raise FileNotFoundError(f"{path}: no checkpoint there ({POINTER} is missing)")
    try:
        found = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: damaged ({error})") from error
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ValueError(f"{file}: damaged: expected an object of texts")
    return found
