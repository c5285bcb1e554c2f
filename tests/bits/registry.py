"""Groups of cases, and how a result becomes a few hexadecimal digits."""

from __future__ import annotations

import hashlib
import os
import random
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

Case = tuple[str, Callable[[], Any]]
Group = Callable[[], Iterator[Case]]
BACKENDS = ("cpp", "reference")
GROUPS: dict[str, tuple[Group, tuple[str, ...]]] = {}
# What differs between runs: addresses in text, and folders of this run's own.
VARYING = re.compile(r"0x[0-9a-f]+|/tmp/\S+")


def reference() -> bool:
    """Whether cases now run on the reference, which is slow: groups then leave some out."""
    return os.environ.get("FASTGEN_BACKEND") == "reference"


def group(name: str, backends: tuple[str, ...] = BACKENDS) -> Callable[[Group], Group]:
    """Registers a generator of cases; it runs once for each backend ("" is the default one)."""

    def registered(cases: Group) -> Group:
        GROUPS[name] = (cases, backends)
        return cases

    return registered


def digest(result: Any) -> str:
    """16 hexadecimal digits of everything in a result."""
    hasher = hashlib.sha256()
    _update(hasher, result)
    return hasher.hexdigest()[:16]


def _update(hasher: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        hasher.update(f"{value.dtype}{tuple(value.shape)}".encode())
        hasher.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        hasher.update(f"{value.dtype}{value.shape}".encode())
        hasher.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            hasher.update(str(key).encode())
            _update(hasher, inner)
    elif isinstance(value, list | tuple):
        hasher.update(f"[{len(value)}]".encode())
        for inner in value:
            _update(hasher, inner)
    elif value is None or isinstance(value, bool | int | float | str | np.generic):
        text = value if isinstance(value, str) else repr(getattr(value, "item", lambda: value)())
        hasher.update(VARYING.sub("...", text).encode())
    else:
        raise TypeError(f"a case must return tensors, numbers and text, got {type(value)}")


def outcome(case: Callable[[], Any]) -> str:
    """The digest of what a case returns, or its exception."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return digest(case())
        except Exception as error:
            line = (str(error).splitlines() or [""])[0]
            return VARYING.sub("...", f"{type(error).__name__}: {line}")


def outcomes(prefixes: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """(name, outcome) of all cases whose names begin with one of the prefixes, or of all."""
    before = os.environ.get("FASTGEN_BACKEND")
    try:
        for name, (cases, backends) in GROUPS.items():
            for backend in backends:
                prefix = f"{name}/{backend}/" if backend else f"{name}/"
                if prefixes and not any(
                    prefix.startswith(p) or p.startswith(prefix) for p in prefixes
                ):
                    continue
                os.environ["FASTGEN_BACKEND"] = backend or "auto"
                for own, case in cases():
                    if not prefixes or (prefix + own).startswith(prefixes):
                        yield prefix + own, outcome(case)
    finally:
        os.environ.pop("FASTGEN_BACKEND", None)
        if before is not None:
            os.environ["FASTGEN_BACKEND"] = before
