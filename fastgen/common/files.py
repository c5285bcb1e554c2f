"""Files: written at once or not at all; weights as safetensors, read strictly."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_CHECKSUM = "fastgen_crc32"
_LONGEST = 200  # bytes of a name that is kept in a temporary one: file systems allow 255


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` at the end, if all went well.

    It is written beside ``path`` under a random name, made by this call alone, and is on the disk
    before it takes the place. After an exception nothing is left of it. What a killed process left
    (``.name.<16 hex digits>.part``) is removed by the next write of the same file; a lock tells it
    from what another process is writing. Permissions of a file that is there are kept. A symbolic
    link is replaced, not followed.

    Raises:
        OSError: from the file system, naming the path.
    """
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(f"{path}: is a folder; give the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    temporary, descriptor = _create(path)
    try:
        with open(descriptor, "wb") as file:
            with suppress(FileNotFoundError):
                found = path.lstat()
                if stat.S_ISREG(found.st_mode) and hasattr(os, "fchmod"):
                    os.fchmod(descriptor, stat.S_IMODE(found.st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name != "nt":
                os.replace(temporary, path)
        if os.name == "nt":  # where open files cannot be moved
            os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``path`` at the end, if all went well.

    As `replacing`, for the files that are put into it: after an exception nothing is left, and what
    a killed process left is removed by the next write of the same folder. A folder that is there
    is moved away just before. Files are not forced to the disk one by one: after a loss of power
    they may be shorter than they were written.

    Raises:
        OSError: from the file system, naming the path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    made, descriptor = _create_folder(path)
    try:
        yield made
        while True:
            with suppress(FileNotFoundError):
                away = path.with_name(f"{_beside(path)}{secrets.token_hex(8)}.part")
                os.rename(path, away)
                shutil.rmtree(away, ignore_errors=True)
            try:
                os.rename(made, path)
                break
            except OSError:  # another process was quicker with the same folder: away with it too
                if not path.is_dir():
                    raise
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    finally:
        if descriptor is not None:
            os.close(descriptor)
    _sync_folder(path.parent)


def _create_folder(path: Path) -> tuple[Path, int | None]:
    """A temporary folder, locked where folders can be."""
    while True:
        made = path.with_name(f"{_beside(path)}{secrets.token_hex(8)}.part")
        made.mkdir()
        if fcntl is None:
            return made, None
        with suppress(FileNotFoundError):  # between making and locking it another may remove it
            descriptor = os.open(made, os.O_RDONLY)
            if not _lock(descriptor, wait=True) or made.exists():
                return made, descriptor
            os.close(descriptor)


def _beside(path: Path) -> str:
    """How names of temporary files for ``path`` begin."""
    return f".{os.fsdecode(os.fsencode(path.name)[:_LONGEST])}."


def _create(path: Path) -> tuple[Path, int]:
    """A temporary file, open and locked. Between making and locking it another may remove it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        temporary = path.with_name(f"{_beside(path)}{secrets.token_hex(8)}.part")
        descriptor = os.open(temporary, flags, 0o666)
        try:
            if not _lock(descriptor, wait=True) or temporary.exists():
                return temporary, descriptor
        except BaseException:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
            raise
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock a file until it is closed; False where that is impossible or another has done it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # held by another, or a file system without locks
        return False
    return True


def _remove_stale(path: Path) -> None:
    """Remove temporary files for ``path`` that no process is writing any more."""
    pattern = re.compile(re.escape(_beside(path)) + r"[0-9a-f]{16}\.part")
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    for name in os.listdir(path.parent):
        if not pattern.fullmatch(name):
            continue
        left = path.with_name(name)
        with suppress(OSError):  # gone, a link, or of another user
            descriptor = os.open(left, os.O_RDONLY if left.is_dir() else flags)
            try:
                if _lock(descriptor, wait=False):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            finally:
                os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Put a new name on the disk, where folders can be opened for that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_safetensors(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors and metadata with a checksum of both, whole or not at all.

    Equal contents give equal bytes.

    Raises:
        ImportError: the package safetensors is missing.
        OSError: as for `replacing`.
    """
    from safetensors.torch import save

    apart: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, value in tensors.items():
        x = value.detach().cpu().contiguous()
        storage = x.untyped_storage().data_ptr()
        apart[name] = x.clone() if storage in storages else x  # the format knows no sharing
        storages.add(storage)
    facts = {**metadata, _CHECKSUM: _checksum(apart, metadata)}
    with replacing(Path(path)) as file:
        written = memoryview(save(apart, facts))
        size = 8 + int.from_bytes(written[:8], "little")
        head = json.loads(bytes(written[8:size]))
        head["__metadata__"] = dict(sorted(facts.items()))  # safetensors has them in any order
        text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        file.write(written[size:])


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as safetensors, or is not as `write_safetensors` left it.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            tensors = {k: file.get_tensor(k) for k in names}
            metadata = dict(file.metadata() or {})
    except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from error
    expected = metadata.pop(_CHECKSUM, None)
    if expected is not None and expected != _checksum(tensors, metadata):
        raise ValueError(
            f"{path}: damaged, its checksum does not fit; restore it from a copy (or leave out "
            f"{_CHECKSUM!r} of the metadata, if you changed the file yourself)"
        )
    return tensors, metadata


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    total = zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        x = tensors[name]
        total = zlib.crc32(f"{name} {x.dtype} {list(x.shape)}".encode(), total)
        total = zlib.crc32(x.contiguous().reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"


def read_object(path: Path, metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """The JSON object that a file's metadata have under a name.

    Raises:
        ValueError: if it is missing or something else.
    """
    try:
        found = json.loads(metadata[name])
    except KeyError:
        raise ValueError(f"{path}: damaged metadata ({name} is missing)") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged metadata ({name}: {error})") from error
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise ValueError(f"{path}: damaged metadata ({name}: expected an object, got {kind})")
    return found


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give a module exactly these weights.

    Raises:
        ValueError: as for `check_weights`; the module is as it was then.
    """
    check_weights(module, tensors, path)
    module.load_state_dict(dict(tensors))


def check_weights(
    module: nn.Module, tensors: Mapping[str, Tensor], path: Path, *, exact: bool = False
) -> None:
    """Refuse what is not a module's weights. Parameters must be finite, buffers no NaN.

    exact: the dtypes must be the same; otherwise floating numbers of another size will do.

    Raises:
        ValueError: naming what is missing, left over, of another shape or dtype, or not finite, and
            tied weights that differ.
    """
    wanted = module.state_dict(keep_vars=True)  # where one tensor with two names is one object
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    missing, left = sorted(wanted.keys() - tensors), sorted(tensors.keys() - wanted)
    common = sorted(wanted.keys() & tensors.keys())
    owner: dict[int, str] = {}
    first = {k: owner.setdefault(id(x), k) for k, x in wanted.items()}
    bent = [k for k in common if wanted[k].shape != tensors[k].shape]
    strange = [k for k in common if not _convertible(tensors[k], wanted[k], exact)]
    complaints = []
    if missing:
        complaints.append(f"missing {_some(missing)}")
    if left:
        complaints.append(f"unexpected {_some(left)}")
    if bent:
        k = bent[0]
        shapes = f"{k} is {list(tensors[k].shape)}, the network has {list(wanted[k].shape)}"
        complaints.append(f"{len(bent)} of another shape ({shapes})")
    if strange:
        k = strange[0]
        dtypes = f"{k} is {tensors[k].dtype}, the network has {wanted[k].dtype}"
        complaints.append(f"{len(strange)} of another dtype ({dtypes})")
    if not complaints:
        bad = [k for k in common if not _usable(tensors[k].to(wanted[k].dtype), k in parameters)]
        if bad:
            complaints.append(f"NaN or infinity in {_some(bad)}")
        apart = [k for k in common if not torch.equal(tensors[k], tensors[first[k]])]
        if apart:
            k = apart[0]
            complaints.append(f"{k} and {first[k]} differ, which are one tensor of the network")
    if complaints:
        raise ValueError(f"{path}: the weights do not fit the network: {'; '.join(complaints)}")


def _convertible(given: Tensor, wanted: Tensor, exact: bool) -> bool:
    floating = given.is_floating_point() and wanted.is_floating_point()
    return given.dtype == wanted.dtype or (floating and not exact)


def _usable(x: Tensor, finite: bool) -> bool:
    return bool((torch.isfinite(x) if finite else ~torch.isnan(x)).all())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
