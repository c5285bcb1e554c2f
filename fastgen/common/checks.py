"""Checks of arguments, and numbers of rows as factors of a batch.

Each refusal names the argument, its value and what was expected.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from fastgen.common.errors import nearest
from fastgen.common.tensors import is_tensor

if TYPE_CHECKING:
    import torch
    from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def check_choice(name: str, value: str, choices: Collection[str]) -> str:
    """The value, or a ValueError that names the nearest choice."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={value!r}: {nearest(str(value), choices)}")
    return value


def check_number(name: str, value: Any) -> float:
    """The value as a float, or a TypeError if it is not one real number."""
    if is_tensor(value) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        found = repr(value)
        if is_tensor(value):
            found = "a nested tensor" if value.is_nested else f"shape {list(value.shape)}"
        raise TypeError(f"{name}: expected a number, got {found}")
    return float(value)


def check_pair(name: str, value: Any) -> tuple[float, float]:
    """The value as two floats, or an error if it is not (low, high)."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or len(value) != 2:
        raise TypeError(f"{name}={value!r}: expected two numbers (low, high)")
    return check_number(name, value[0]), check_number(name, value[1])


def check_nonnegative(name: str, value: float) -> float:
    """The value, or a ValueError if it is not a finite number >= 0."""
    if not 0 <= check_number(name, value) < math.inf:
        raise ValueError(f"{name}={value!r}: expected a finite number >= 0")
    return value


def check_positive(name: str, value: float, remedy: str = "", *, infinite: bool = False) -> float:
    """The value, or a ValueError if it is not a number > 0.

    ``remedy`` says what to do instead; ``infinite`` allows infinity.
    """
    if not 0 < check_number(name, value) < math.inf and not (infinite and value == math.inf):
        advice = f"; {remedy}" if remedy else ""
        raise ValueError(f"{name}={value!r}: expected a positive number{advice}")
    return value


def check_fraction(name: str, value: float) -> None:
    """Raise a ValueError for an option that must lie in (0, 1]."""
    if not 0 < check_number(name, value) <= 1:
        raise ValueError(f"{name}={value!r}: expected 0 < {name} <= 1")


def check_integer(name: str, value: Any, remedy: str = "") -> int:
    """The value as an int: of anything with ``__index__``, as numpy's integers have.

    Raises:
        TypeError: for real numbers, also whole ones, and for True and False; ``remedy`` says more.
    """
    if type(value) is int:
        return value
    try:
        if isinstance(value, int) and not isinstance(value, bool):
            return int(value)  # of an IntEnum, whose index torch.compile does not find
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    advice = f"; {remedy}" if remedy else ""
    raise TypeError(f"{name}={value!r}: expected a whole number{advice}")


def check_range(name: str, value: Any, bits: int) -> int:
    """The value as an int, or an error if it is not a whole number from 0 to 2^bits - 1."""
    number = check_integer(name, value)
    if not 0 <= number < 2**bits:
        raise ValueError(f"{name}={value!r}: expected 0 <= {name} < 2^{bits}")
    return number


def check_whole(name: str, value: int, least: int, most: int | None = None) -> int:
    """The value, or a ValueError if it is not a whole number from ``least`` to ``most``."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        allowed = f">= {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}={value!r}: expected a whole number {allowed}")
    return value


def check_sizes(name: str, shape: Any, expected: str = "a shape [B, ...]") -> tuple[int, ...]:
    """A shape [B, ...] as given, or an error that says what it should be.

    Raises:
        TypeError: for something else than whole numbers in order.
        ValueError: for none, or one below 0.
    """
    if isinstance(shape, (str, bytes)) or not isinstance(shape, Sequence):
        remedy = f"; one number per sample is ({shape},)" if isinstance(shape, int) else ""
        raise TypeError(f"{name}={shape!r}: expected {expected}{remedy}")
    try:
        found = tuple([operator.index(n) for n in shape])
    except TypeError:
        raise TypeError(f"{name}={shape!r}: expected whole numbers [B, ...]") from None
    if not found or min(found) < 0:
        raise ValueError(f"{name}: expected a batch axis and sizes >= 0, got {found}")
    return found


def check_at_least(name: str, value: float, least: int) -> None:
    """Raise a ValueError for a number below ``least``, such as a count or a size."""
    number = check_number(name, value)
    if not number >= least:
        raise ValueError(f"{name}={value!r}: expected at least {least}")
    if number % 1 > 0:
        raise ValueError(f"{name}={value!r}: expected a whole number >= {least}")


def check_function(name: str, value: Any) -> None:
    """Raise a TypeError for what cannot be called."""
    if not callable(value):
        raise TypeError(f"{name}={value!r}: expected a function")


def check_mapping(name: str, value: Any) -> None:
    """Raise a TypeError for what is no dictionary."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}={value!r}: expected a dictionary")


def check_tensor(name: str, value: Any) -> Tensor:
    """The value, or a TypeError if it is not a tensor."""
    if not is_tensor(value):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    return value


def why_not_dense(x: Tensor) -> str | None:
    """Why a tensor is no plain array of numbers, and what to do; None where it is one."""
    import torch

    if x.is_nested:
        return "it is nested; give a padded tensor, x.to_padded_tensor(0.0)"
    if x.layout != torch.strided:
        return f"its layout is {x.layout}; give x.to_dense()"
    if x.is_quantized:
        return "it is quantized; give x.dequantize()"
    return None


def check_dense(name: str, value: Any) -> Tensor:
    """The value, or a TypeError if it is not a tensor that is a plain array of numbers."""
    x = check_tensor(name, value)
    reason = why_not_dense(x)
    if reason is not None:
        raise TypeError(f"{name}: expected a dense tensor: {reason}")
    return x


def check_real_device(name: str, x: Tensor) -> None:
    """Raise a ValueError for a tensor without numbers, where a computation depends on them."""
    if x.is_meta:
        raise ValueError(
            f"{name}: it is on the meta device, which has no numbers; give one on a real device"
        )


def as_numbers(name: str, value: Any, device: torch.device | None = None) -> Tensor:
    """A number, a sequence of them or a tensor as float64, or a TypeError.

    Python's numbers keep all their digits, whatever torch's default dtype is, and are on the CPU
    unless a device is given, whatever torch's default device is; a tensor stays where it is.
    """
    import torch

    if device is None:
        device = getattr(value, "device", None)
        device = device if isinstance(device, torch.device) else torch.device("cpu")
    try:
        return torch.as_tensor(value, dtype=torch.float64, device=device)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"{name}={value!r}: expected a number or a sequence of them") from None


def check_floating(name: str, value: Any, shape: str = "[B, ...]", axes: int = 1) -> Tensor:
    """The value, or an error if it is not a tensor of floating numbers.

    Args:
        name: of the argument.
        value: what was given.
        shape: as the message shows it.
        axes: as many as the tensor has at least.

    Raises:
        TypeError: for something else than a dense tensor.
        ValueError: for whole or complex numbers, float8 and for fewer axes.
    """
    x = check_dense(name, value)
    if x.ndim < axes or not x.is_floating_point():
        raise ValueError(f"{name}: expected floating {shape}, got {x.dtype} {list(x.shape)}")
    if x.itemsize < 2:
        raise ValueError(f"{name}: numbers in {x.dtype} are only stored; give {name}.float()")
    return x


def check_floating_dtype(name: str, dtype: Any) -> None:
    """Raise a ValueError unless numbers of that dtype are real and floating."""
    import torch

    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"{name}={dtype!r}: expected a floating dtype, torch.float32 say")


def check_shape(name: str, x: Tensor, shape: Sequence[int], like: str = "") -> None:
    """Raise a ValueError unless a tensor has the shape, which is that of ``like`` if it is named.

    Where a result would be broadcast instead, something else would be computed without a word.
    """
    if not is_tensor(x):
        raise TypeError(f"{name}: expected a tensor {list(shape)}, got {type(x).__name__}")
    if x.shape != tuple(shape):
        source = f" like {like}" if like else ""
        raise ValueError(f"{name}: expected shape {list(shape)}{source}, got {list(x.shape)}")


def check_finite(name: str, x: Tensor) -> None:
    """Raise a ValueError if a number of a tensor is NaN or infinite."""
    if not x.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers")


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Numbers [B] as factors of a batch ``like`` [B, ...]: the same memory, seen as [B, 1, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def rows_of(x: Tensor) -> Tensor:
    """A batch [B, ...] as one row of numbers for each sample, [B, N], also where it is [B]."""
    return x.flatten(1) if x.ndim > 1 else x[:, None]


def known_arguments(**objects: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: unknown keyword arguments are a TypeError that says what was meant.

    Args:
        **objects: for arguments that take an object of numbers, its dataclass, or several. A field
            of it that is given to the function itself is shown its place.
    """
    places: dict[str, str] = {}
    for argument, kinds in objects.items():
        for kind in kinds if isinstance(kinds, tuple) else (kinds,):
            for part in fields(kind):
                places.setdefault(part.name, f"{argument}={kind.__name__}({part.name}=...)")

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        names = frozenset(inspect.signature(function).parameters)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in names:
                    place = places.get(name)
                    hint = f"give it as {place}" if place else nearest(name, names)
                    raise TypeError(
                        f"{function.__name__}() got an unexpected keyword argument {name!r}: {hint}"
                    )
            return function(*args, **kwargs)

        return checked

    return decorate
