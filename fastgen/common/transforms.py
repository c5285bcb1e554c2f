"""Which transforms of torch see a call: forward-mode derivatives, and those of `torch.func`.

Both show in no `requires_grad`. A tensor with a tangent looks like any other, and what is written
into memory by address loses the tangent without a word. A tensor inside `torch.func.grad`, `jvp`,
`vmap` or `functionalize` has no memory of its own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch import pyfunctorch
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

# What to do where only reverse mode goes through, or nothing does.
BACKWARD = "call it outside of them; where it has gradients, backward() takes them"

P = ParamSpec("P")
R = TypeVar("R")


def transforming() -> bool:
    """Whether forward-mode derivatives are taken, or a transform of `torch.func` runs."""
    return functional() or forward_ad._current_level >= 0


def functional() -> bool:
    """Whether a transform of `torch.func` runs, in which gradients are taken without backward()."""
    return bool(torch._C._are_functorch_transforms_active())


def to_list(x: Tensor) -> Any:
    """`x.tolist()`, also within `torch.func.grad`, `jacrev` and `jvp`.

    There torch 2.9 gives no list of any tensor, not even of one that the transform does not see.
    """
    try:
        return x.tolist()
    except RuntimeError:
        if not functional() or _functionalised(x):  # of which torch's item() is a crash
            raise
        return [to_list(row) for row in x.unbind()] if x.ndim else x.item()


def _functionalised(x: Tensor) -> bool:
    """Whether a tensor belongs to `torch.func.functionalize`."""
    while _functorch.is_functorch_wrapped_tensor(x):
        if _functorch.is_functionaltensor(x):
            return True
        x = _functorch.get_unwrapped(x)
    return False


def tangent_of(x: Tensor) -> Tensor | None:
    """The tangent that a tensor carries in forward mode."""
    unpack: Any = forward_ad.unpack_dual
    tangent: Tensor | None = unpack(x).tangent
    return tangent


def traced(value: Any) -> bool:
    """Whether a tensor (or one in a tuple, list or dictionary) is seen by such a transform."""
    if not transforming():
        return False
    return any(_traced(x) for x in pytree.tree_leaves(value) if isinstance(x, Tensor))


def _traced(x: Tensor) -> bool:
    if _functorch.is_functorch_wrapped_tensor(x) or _functorch.is_legacy_batchedtensor(x):
        return _varies(x)
    return tangent_of(x) is not None


def _varies(x: Tensor) -> bool:
    """Whether a wrapped tensor has a derivative, a batch axis or a functional twin.

    Within `torch.func.grad` and `jvp` every result is wrapped, constants too.
    """
    while _functorch.is_functorch_wrapped_tensor(x):
        if not _functorch.is_gradtrackingtensor(x):
            return True
        if x.requires_grad or tangent_of(x) is not None:
            return True
        x = _functorch.get_unwrapped(x)
    return _functorch.is_legacy_batchedtensor(x) or (tangent_of(x) is not None)


def batched(x: Tensor) -> bool:
    """Whether `torch.vmap` hides an axis of a tensor."""
    while _functorch.is_gradtrackingtensor(x):
        x = _functorch.get_unwrapped(x)
    return _functorch.is_batchedtensor(x) or _functorch.is_legacy_batchedtensor(x)


def _bound(x: Any) -> bool:
    """Whether a tensor cannot be taken out of the transforms."""
    if not isinstance(x, Tensor):
        return False
    while _functorch.is_gradtrackingtensor(x):
        x = _functorch.get_unwrapped(x)
    return bool(_functorch.is_functorch_wrapped_tensor(x))


def check_not_batched(call: str, remedy: str, **values: Any) -> None:
    """Raise a ValueError for a tensor that has an axis hidden by `torch.vmap`.

    Args:
        call: the function, as the message names it.
        remedy: what to do instead.
        **values: arguments by name.
    """
    if not transforming():
        return
    for name, value in values.items():
        if any(batched(x) for x in pytree.tree_leaves(value) if isinstance(x, Tensor)):
            raise ValueError(f"{name}: {call} under torch.vmap: {remedy}")


def check_untraced(call: str, remedy: str, **values: Any) -> None:
    """Raise a ValueError for a tensor whose derivative or batch axis the call would lose.

    Args:
        call: the function, as the message names it.
        remedy: what to do instead.
        **values: arguments by name, tensors or trees of them.
    """
    for name, value in values.items():
        if traced(value):
            raise ValueError(
                f"{name}: {call} under forward-mode derivatives or torch.func (grad, jvp, vmap, "
                f"functionalize): they do not go through it; {remedy}"
            )


def unwrapped(value: Any, call: str = "this call") -> Any:
    """Tensors (in a tree) without tangents, graphs and wrappers; see `suspended`.

    Args:
        value: what has them.
        call: the function that needs it, as the message names it.

    Raises:
        ValueError: for a tensor with an axis hidden by `torch.vmap`, or inside `functionalize`.
    """

    def bare(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        while _functorch.is_functorch_wrapped_tensor(x):
            if not _functorch.is_gradtrackingtensor(x):
                raise ValueError(
                    f"{call} under torch.vmap or torch.func.functionalize: a tensor there has no "
                    "memory of its own; call it outside of them"
                )
            x = _functorch.get_unwrapped(x)
        return x.detach()

    return pytree.tree_map(bare, value)


def outside_transforms(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator: make tensors on plain memory, from plain arguments.

    Inside of `torch.func` whatever is made is wrapped, for the time of the transform alone: it must
    not be kept, and has no address. Arguments with an axis hidden by `torch.vmap` stay inside.
    """

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if not transforming() or any(map(_bound, pytree.tree_leaves((args, kwargs)))):
            return function(*args, **kwargs)
        with suspended():
            args, kwargs = unwrapped((args, kwargs))
            return function(*args, **kwargs)

    return called


def untransformed(remedy: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator for calls that no derivative goes through: one that would be lost is refused.

    Raises:
        ValueError: when called with a tensor that carries a tangent, or is wrapped by `torch.func`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        names = list(inspect.signature(function).parameters)
        on_plain_memory = constant(function)

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            if transforming():
                given = {**dict(zip(names, args, strict=False)), **kwargs}
                check_untraced(function.__qualname__, remedy, **given)
            return on_plain_memory(*args, **kwargs)

        return called

    return decorate


def constant(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator for results that change in jumps alone, such as indices: on plain memory.

    Raises:
        ValueError: when called with a tensor inside of `torch.vmap` or `functionalize`.
    """

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if not transforming():
            return function(*args, **kwargs)
        call = function.__qualname__.removesuffix(".__call__")
        with suspended(call):
            args, kwargs = unwrapped((args, kwargs), call)
            return function(*args, **kwargs)

    return called


@contextmanager
def suspended(
    call: str = "this call", tangents: bool = False
) -> Iterator[Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """Work on plain memory inside of whatever transforms run.

    Yields a function that gives a user's function its transforms back: what that returns is made
    `unwrapped`.

    Args:
        call: see `unwrapped`.
        tangents: whether operations keep theirs, for those who look for them.
    """
    with (
        pyfunctorch.temporarily_clear_interpreter_stack() as saved,
        forward_ad._set_fwd_grad_enabled(tangents),
    ):

        def within(f: Callable[..., Any]) -> Callable[..., Any]:
            def called(*arguments: Any, **keywords: Any) -> Any:
                with pyfunctorch.temporarily_restore_interpreter_stack(saved):
                    found = f(*arguments, **keywords)
                return unwrapped(found, call)

            return called

        yield within
