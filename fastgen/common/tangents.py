"""Users' functions in forward mode: their tangents arrive, or it is said that they did not.

Code that torch.compile made gives a value without its tangent, and so does one that detaches or
leaves torch. It looks like a constant, and the derivative of whatever it is part of is wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from fastgen.common.derivatives import elsewhere
from fastgen.common.transforms import suspended, tangent_of

R = TypeVar("R")
REMEDY = "write it in operations that forward-mode derivatives go through"


class _Stance:
    """torch.compile's stance for all threads, and how many of them want it to be another."""

    def __init__(self) -> None:
        self.lock, self.count = threading.Lock(), 0
        self.set: Any = None


_stance = _Stance()


@contextmanager
def uncompiled_calls() -> Iterator[None]:
    """Functions and modules that the user compiled run as they were written: with tangents.

    torch has one stance for all threads. Another thread that compiles meanwhile runs its functions
    uncompiled once or twice, with the same result.
    """
    with _stance.lock:
        _stance.count += 1
        if _stance.count == 1:
            _stance.set = torch.compiler.set_stance("force_eager")
    try:
        yield
    finally:
        with _stance.lock:
            _stance.count -= 1
            if not _stance.count and _stance.set is not None:
                _stance.set.__exit__(None, None, None)
                _stance.set = None


def carried(name: str, function: Callable[[Any], R], x: Any, of: str = "x") -> R:
    """function(x), whose tensors carry a tangent where x does, or are constant in x.

    A value without a tangent is taken for a constant where the function gives the same at another
    point; only then it is called a second time.

    Args:
        name: of the function, as the message shows it.
        function: of a tensor, or a tree of them, to such.
        x: what it is called with.
        of: what the message calls x.

    Raises:
        ValueError: for a value that depends on x and lost its tangent.
    """
    if forward_ad._current_level < 0 or torch.compiler.is_compiling():
        return function(x)
    with uncompiled_calls():
        found = function(x)
        moving, values = _levels(x), _tensors(found)
        lost = {i: y for i, y in values.items() if moving - _levels(y)}
        if not lost:
            return found
        numbers = [_bare(y).clone() for y in lost.values()]  # the next call may write there
        with torch.no_grad():
            again = _tensors(function(pytree.tree_map_only(Tensor, _moved, x)))
    with suspended(name):
        same = all(torch.equal(y, _bare(again[i])) for i, y in zip(lost, numbers, strict=True))
    if not same:
        raise ValueError(
            f"{name}: its value depends on {of} and has no tangent where {of} has one (detach, "
            "NumPy or JAX inside, inference mode, a CUDA graph), so it would count as constant; "
            f"{REMEDY}, or add 0 * {of} to it where it is meant to be constant"
        )
    return found


def _tensors(tree: Any) -> dict[int, Tensor]:
    """The tensors of real numbers among the leaves, by place."""
    leaves = enumerate(pytree.tree_leaves(tree))
    return {i: y for i, y in leaves if isinstance(y, Tensor) and y.is_floating_point()}


def _levels(tree: Any) -> set[int]:
    """In which derivatives of forward mode a tensor takes part: 0, or levels of `torch.func`."""
    found = set[int]()
    for x in _tensors(tree).values():
        while _functorch.is_functorch_wrapped_tensor(x):
            if _functorch.is_gradtrackingtensor(x) and tangent_of(x) is not None:
                found.add(_functorch.maybe_get_level(x))
            x = _functorch.get_unwrapped(x)
        if tangent_of(x) is not None:
            found.add(0)
    return found


def _moved(x: Tensor) -> Tensor:
    """Another point in what has tangents."""
    return elsewhere(x) if _levels(x) else x


def _bare(x: Tensor) -> Tensor:
    """The numbers behind all wrappers."""
    while _functorch.is_functorch_wrapped_tensor(x):
        x = _functorch.get_unwrapped(x)
    return x.detach()
