"""What a set of samples is of, as hashes: two runs with the same facts draw the same bits."""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cached_property, partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLAIN = (
    *(str, bytes, int, float, complex, enum.Enum),
    *(torch.dtype, torch.device, type, BuiltinFunctionType),
)
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def digest(value: Any) -> str:
    """SHA-256 over what a value is: numbers bit for bit, weights of modules, fields of objects.

    Functions count by name and code, with what they have closed over. Of objects that have none
    of these their attributes count. An object's place in memory never does.
    """
    found = hashlib.sha256()
    _feed(found, value, ())
    return found.hexdigest()


def _feed(into: Any, value: Any, path: tuple[int, ...]) -> None:
    """Put a value into a hash; path: the objects that it lies in, which may refer to each other."""
    if id(value) in path:
        into.update(b"circle")
        return
    inner = (*path, id(value))
    into.update(f"<{type(value).__module__}.{type(value).__qualname__}>".encode())
    if value is None or isinstance(value, PLAIN):
        into.update(repr(value).encode())
    elif isinstance(value, Tensor):
        _tensor(into, value)
    elif isinstance(value, np.ndarray):
        into.update(f"{value.dtype} {value.shape}".encode())
        into.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, nn.Module):
        _module(into, value, inner)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            _feed(into, key, inner)
            _feed(into, value[key], inner)
    elif isinstance(value, (Sequence, set, frozenset)):
        for item in sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value:
            _feed(into, item, inner)
        into.update(b"end")
    elif isinstance(value, partial):
        _feed(into, (value.func, value.args, value.keywords), inner)
    elif isinstance(value, MethodType):
        _feed(into, (value.__func__, value.__self__), inner)
    elif isinstance(value, FunctionType):
        _function(into, value, inner)
    elif is_dataclass(value):
        for f in fields(value):
            if f.init:
                _feed(into, (f.name, getattr(value, f.name)), inner)
    elif hasattr(value, "__dict__"):
        _feed(into, {k: v for k, v in vars(value).items() if not _cached(value, k)}, inner)
    else:
        into.update(_ADDRESS.sub("", repr(value)).encode())


def _cached(value: Any, name: str) -> bool:
    """Whether an attribute is there only if somebody has asked for it before."""
    return isinstance(getattr(type(value), name, None), cached_property)


def _tensor(into: Any, x: Tensor) -> None:
    x = x.detach().cpu()
    into.update(f"{x.dtype} {list(x.shape)}".encode())
    try:
        numbers = x.contiguous().reshape(-1).view(torch.uint8).numpy()
    except RuntimeError as error:
        raise ValueError(
            f"a {type(x).__name__} has no memory of its own to be hashed; give a plain tensor"
        ) from error
    into.update(numbers.tobytes())


def _module(into: Any, module: nn.Module, path: tuple[int, ...]) -> None:
    """The classes of all parts and their plain settings, the weights and the buffers."""
    for name, part in module.named_modules():
        into.update(f"{name}:{type(part).__module__}.{type(part).__qualname__}".encode())
        plain = {k: v for k, v in vars(part).items() if not k.startswith("_")}
        plain.pop("training", None)
        for key in sorted(plain):
            if isinstance(plain[key], (str, int, float, tuple, list, type(None))):
                _feed(into, (key, plain[key]), path)
    for key, value in module.state_dict().items():
        into.update(key.encode())
        _feed(into, value, path)


def _function(into: Any, function: FunctionType, path: tuple[int, ...]) -> None:
    into.update(f"{function.__module__}.{function.__qualname__}".encode())
    into.update(function.__code__.co_code)
    constants = [c for c in function.__code__.co_consts if not hasattr(c, "co_code")]
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    _feed(into, (constants, cells, function.__defaults__, function.__kwdefaults__), path)


def canonical(facts: Mapping[str, Any]) -> str:
    """Facts as JSON: the same text for the same facts."""
    return json.dumps(facts, sort_keys=True, indent=1)
