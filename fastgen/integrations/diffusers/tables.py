"""A scheduler's tables as host numbers, and whether its user has changed one since."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastgen.kernels import dispatch

# A table as numbers: of a tensor with one element the number itself.
HostTable: TypeAlias = "list[float] | float"


def host(value: Any) -> HostTable:
    """A tensor, an array or a number as host numbers; none of what is not there."""
    if value is None:
        return []
    numbers: HostTable = value.tolist() if hasattr(value, "tolist") else value
    return numbers


def watch(own: dict[str, Any], names: Iterable[str]) -> Callable[[dict[str, Any]], bool]:
    """Attributes as they are now: unchanged(vars(object)) tells whether they still are.

    What is told apart: another object, and other numbers in a tensor. On a device, where they
    cannot be compared without waiting for it, a tensor has changed when torch has written to it.
    """
    if dispatch.missing("cpp") is None:
        native = dispatch.load("watch", "cpp")
        assert native is not None
        unchanged: Callable[[dict[str, Any]], bool] = native(own, list(names))
        return unchanged
    seen = [(name, own.get(name), _contents(own.get(name))) for name in names]

    def same(own: dict[str, Any]) -> bool:
        return all(
            own.get(name) is value and _equal(contents, _contents(value))
            for name, value, contents in seen
        )

    return same


def _contents(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return None
    if value.device.type == "cpu":
        return value.detach().clone()
    return None if value.is_inference() else value._version


def _equal(before: Any, now: Any) -> bool:
    return torch.equal(before, now) if isinstance(before, Tensor) else bool(before == now)
