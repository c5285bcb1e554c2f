"""Weights on disk: safetensors, written at once or not at all, read strictly."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; it takes its place at the end, if all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as safetensors.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {k: file.get_tensor(k) for k in names}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from error


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give a module exactly these weights.

    Raises:
        ValueError: naming what is missing, left over, or of another shape.
    """
    wanted = module.state_dict()
    missing, left = sorted(wanted.keys() - tensors), sorted(tensors.keys() - wanted)
    bent = [k for k in wanted.keys() & tensors.keys() if wanted[k].shape != tensors[k].shape]
    complaints = []
    if missing:
        complaints.append(f"missing {_some(missing)}")
    if left:
        complaints.append(f"unexpected {_some(left)}")
    if bent:
        k = min(bent)
        shapes = f"{k} is {list(tensors[k].shape)}, the network has {list(wanted[k].shape)}"
        complaints.append(f"{len(bent)} of another shape ({shapes})")
    if complaints:
        raise ValueError(f"{path}: the weights do not fit the network: {'; '.join(complaints)}")
    module.load_state_dict(dict(tensors))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
