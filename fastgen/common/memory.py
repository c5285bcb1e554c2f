"""Tensors whose numbers do not lie in memory as they are, and how such numbers are had.

Kernels read memory. A tensor may have none: wrapper subclasses, tensors of torch.func, fake and
sparse ones. And a view may stand for the negatives or conjugates of what lies in its memory.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor

from fastgen.common.checks import check_tensor, why_not_dense

EMPTIED = "its storage is empty; fill it again before this call"


def why_no_memory(x: Tensor) -> str | None:
    """Why a tensor has no memory of its own, and what to do; None where it has.

    A tensor of zeros that torch makes without memory (tangents of forward mode) has none.
    """
    if torch._is_functional_tensor(x):
        return "torch.func.functionalize wraps it; make this call outside of it"
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        return "torch.func (vmap, grad, jvp ...) wraps it; make this call outside of the transform"
    kind = type(x)
    if kind.__module__ == "torch._subclasses.fake_tensor":
        return "it is a fake tensor, which has no numbers; make this call outside of FakeTensorMode"
    reason = why_not_dense(x)
    if reason is not None:
        return reason
    if x.device.type == "meta":
        return "it is on the meta device, which has no numbers; give one on a real device"
    if x._is_zerotensor():
        return "torch keeps no memory for these zeros; give torch.zeros_like(x)"
    if x.numel() and x.data_ptr() == 0:
        if kind in (Tensor, torch.nn.Parameter):
            return EMPTIED
        return f"a {kind.__name__} wraps other tensors; give the tensor that it wraps"
    return None


def _ready(x: Any) -> TypeGuard[Tensor]:
    """Whether contiguous memory has the numbers, by what is quick to ask."""
    if type(x) is not Tensor or x.layout != torch.strided:
        return False
    if x.is_nested or x.is_quantized or not x.is_contiguous():
        return False
    if x.is_neg() or x.is_conj():
        return False
    try:
        return x.data_ptr() != 0
    except RuntimeError:  # torch.func's
        return False


def refusal(x: Tensor, reason: str, name: str = "") -> ValueError:
    """The error for a tensor without memory."""
    where = f"{name}: " if name else ""
    return ValueError(
        f"{where}expected a tensor with memory of its own, got {type(x).__name__} of "
        f"{x.dtype}: {reason}"
    )


def readable(x: Any, name: str = "") -> Tensor:
    """The tensor, or a copy of its numbers, with contiguous memory that says what they are.

    Negative and conjugate views are resolved, and zeros without memory made.

    Raises:
        TypeError: for something else than a tensor.
        ValueError: for a tensor without memory of its own.
    """
    if _ready(x):
        return x
    x = check_tensor(name or "argument", x)
    reason = why_no_memory(x)
    if reason is None:
        resolved: Tensor = x.resolve_neg().resolve_conj().contiguous()
        return resolved
    if type(x) is Tensor and x.layout == torch.strided and x._is_zerotensor():
        return torch.zeros(x.shape, dtype=x.dtype, device=x.device)
    raise refusal(x, reason, name)


def address(x: Any) -> int:
    """Where the numbers of a contiguous tensor lie.

    Raises:
        TypeError: for something else than a tensor.
        ValueError: for a tensor without memory of its own, or with other numbers than lie there.
    """
    if _ready(x):
        return x.data_ptr()
    x = check_tensor("argument", x)
    reason = why_no_memory(x)
    if reason is not None:
        raise refusal(x, reason)
    if x.is_neg() or x.is_conj():
        raise ValueError("expected numbers in memory, got a negative or conjugate view of them")
    if not x.is_contiguous():
        raise ValueError(
            f"expected a contiguous tensor, got shape {list(x.shape)}, strides {list(x.stride())}"
        )
    found: int = x.data_ptr()
    return found


def address_on_cpu(x: Any) -> int:
    """`address`, and a ValueError for a tensor on another device."""
    found = address(x)
    if not x.is_cpu:
        raise ValueError(f"expected a tensor on the CPU, got one on {x.device}")
    return found


def storage_address(x: Tensor) -> int:
    """Where a tensor's storage begins; 0 where it has none, or nothing may be known of it."""
    try:
        return x.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # inside of torch.func's transforms
        return 0


# Of so many values it is looked whether they lie in different memory: those of two steps or more.
_LOOKED_AT = 8


class OwnMemory:
    """Values of a user's functions, each in memory of its own while a solve reads several of them.

    A function may write all its values to one place (``out=``, a captured graph). Then the values
    of a step would be one and the same. The first few are copied, with the originals kept, so that
    new memory is not found at an old address; if two of these lie in one place, all are copied.
    """

    def __init__(self) -> None:
        self._originals: list[Tensor] = []
        self._copies: bool | None = None  # None: not known yet

    def __call__(self, value: Any) -> Any:
        """The value, or a copy of it."""
        if self._copies is False or not isinstance(value, Tensor):
            return value
        if self._copies is None:
            if torch.compiler.is_compiling():
                return value
            self._look(value)
        if not _ready(value) and why_no_memory(value) == EMPTIED:  # torch would read it
            raise refusal(value, EMPTIED)
        return value.clone()

    def _look(self, value: Tensor) -> None:
        self._originals.append(value)
        if len(self._originals) == _LOOKED_AT:
            places = [storage_address(x) for x in self._originals]
            self._copies = len({p for p in places if p}) < len([p for p in places if p])
            self._originals.clear()
