"""Tensors that are kept for later calls: plain memory, whatever mode of torch they are made in.

A tensor of inference mode can take part in no later gradient, one of `torch.func` ends with its
transform, and one of a mode of dispatch (fake, functional, traced) with that mode.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, MutableMapping
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch.utils._python_dispatch import _disable_current_modes

from fastgen.common.transforms import outside_transforms

K = TypeVar("K", bound=Hashable)
P = ParamSpec("P")
R = TypeVar("R")


# Modes of torch's own whose tensors are of their kind; others see the operations of plain ones.
_KINDS = [getattr(torch._C._TorchDispatchModeKey, kind) for kind in ("FAKE", "FUNCTIONAL", "PROXY")]


def passing() -> bool:
    """Whether a mode makes tensors of its kind: what is made is neither kept nor looked up."""
    modes = torch._C._len_torch_dispatch_stack()
    return modes > 0 and any(torch._C._get_dispatch_mode(kind) is not None for kind in _KINDS)


def kept(known: MutableMapping[K, R], key: K, make: Callable[[], R]) -> R:
    """known[key], made where it is not there."""
    if passing():
        return make()
    if key not in known:
        known[key] = _seen(make)
    return known[key]


def keeps(limit: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: the last results of a function by its arguments; nobody may write to them."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        made: Any = lru_cache(limit)(
            lambda *args, **kwargs: _seen(lambda: function(*args, **kwargs))
        )

        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            found: R = (function if passing() else made)(*args, **kwargs)
            return found

        return called

    return decorate


def anywhere(make: Callable[[], R]) -> R:
    """What a module holds from its import on, which may be within a mode of dispatch."""
    with _disable_current_modes():
        return _plain(make)


def _seen(make: Callable[[], R]) -> R:
    return anywhere(make) if torch._C._len_torch_dispatch_stack() else _plain(make)


@outside_transforms
def _plain(make: Callable[[], R]) -> R:
    with torch.inference_mode(False), torch.no_grad():
        return make()
