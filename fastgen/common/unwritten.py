"""Inputs of networks and other functions of a user's: the state itself, which stays as it is.

A function that changed its input in place would change the state in some solvers and dtypes and
not in others. torch counts what is written to a tensor, so that it is noticed at no cost.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastgen.common.tangents import carried


def version(x: Tensor) -> int:
    """How often torch has written to the tensor; -1 where it does not count: in inference mode.

    Nor while torch.compile traces: functions that are compiled here are called once without it.
    """
    if torch.compiler.is_compiling():
        return -1
    try:
        return x._version
    except RuntimeError:
        return -1


def check_unwritten(name: str, x: Tensor, before: int) -> None:
    """Raise a ValueError if the tensor was written to since `version` was ``before``."""
    if before != version(x):
        raise ValueError(
            f"{name}: it changed its input in place, and its input is the state of the run; work "
            "on a copy (x = x.clone()), or without in-place operations (x = x.clamp(-1, 1) for "
            "x.clamp_(-1, 1))"
        )


def _uncounted(x: Tensor) -> bool:
    """Whether functions get copies: in inference mode, whatever mode the memory was made in."""
    return x.is_inference() or torch.is_inference_mode_enabled()


def unwritten(name: str, f: Callable[..., Any], t: Any, y: Any) -> Any:
    """f(t, y) for a tensor or a tree of them, which f must leave as it is.

    In inference mode, where writes are not counted, f is handed a copy. In forward mode its value
    has the tangents it should have: see `carried`.

    Raises:
        ValueError: if f changed y in place, or lost y's tangent.
    """
    return carried(name, lambda y: _unwritten(name, f, t, y), y, "y")


def _unwritten(name: str, f: Callable[..., Any], t: Any, y: Any) -> Any:
    if isinstance(y, Tensor):
        if _uncounted(y):
            return f(t, y.clone())
        before = version(y)
        found = f(t, y)
        check_unwritten(name, y, before)
        return found
    leaves = pytree.tree_leaves(y)
    if any(_uncounted(x) for x in leaves):
        return f(t, pytree.tree_map_only(Tensor, torch.clone, y))
    versions = [version(x) for x in leaves]
    found = f(t, y)
    for x, before in zip(leaves, versions, strict=True):
        check_unwritten(name, x, before)
    return found


def unwritten_calls(name: str, f: Callable[..., Any], y: Any) -> Callable[[Any, Any], Any]:
    """What calls `unwritten` with f and this very y, again and again: for a tensor in less time."""
    if not isinstance(y, Tensor) or _uncounted(y):
        return functools.partial(unwritten, name, f)

    def called(t: Any, y: Tensor) -> Any:
        before = y._version
        found = f(t, y)
        if y._version != before:
            check_unwritten(name, y, before)
        return found

    return called
