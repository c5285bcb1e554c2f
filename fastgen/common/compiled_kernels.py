"""The C++ kernels that compiled code consists of, to be called by address from C++.

What torch.compile makes for a CPU is a Python function that allocates temporary tensors and calls
kernels. Where it does nothing else, the kernels and what they are called with are noted once, on
temporaries that are kept; the function itself is then no longer needed for work on the same memory.
Nothing here is promised by torch: whatever looks otherwise than expected has no kernels.
"""

from __future__ import annotations

import ctypes
import types
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fastgen.common.compiled_calls import CompiledCall
from fastgen.common.compiling import uncompiled
from fastgen.common.memory import storage_address

# The most arguments that csrc/common/compiled.h passes.
MOST_ARGUMENTS = 40
# What code calls that allocates, or looks at tensors that are known here.
_ALLOCATED = ("empty_strided_cpu", "reinterpret_tensor")
_CHECKED = ("assert_size_stride", "assert_alignment")


class Kernels(NamedTuple):
    """Calls in order: addresses of kernels, and of what they are called with, or whole numbers.

    held: tensors and kernels, which must outlive the calls. given: tensors that the function was
    called with, whose memory the calls know.
    """

    calls: list[tuple[int, list[int]]]
    held: tuple[Any, ...]
    given: tuple[Tensor, ...]


class _Code(NamedTuple):
    """What the function of one compiled graph calls.

    entries: by their names in it, addresses of the kernels, and what holds them. rest: the others.
    """

    entries: dict[str, tuple[int, Any]]
    rest: dict[str, Any]


_read: WeakKeyDictionary[types.FunctionType, _Code | None] = WeakKeyDictionary()


@uncompiled
def kernels_of(call: Callable[[], Any]) -> Kernels | None:
    """The kernels of a bound call; None where it does more, or is not on a CPU."""
    if not isinstance(call, CompiledCall):
        return None
    function = getattr(call.code, "__func__", None)
    if not isinstance(function, types.FunctionType):
        return None
    if function not in _read:
        _read[function] = _code(function)
    code = _read[function]
    try:
        return code and _noted(call, function, code)
    except (AttributeError, TypeError, ValueError):
        return None


def _code(function: types.FunctionType) -> _Code | None:
    """What a function calls, if those are kernels and allocations alone."""
    known, names = function.__globals__, function.__code__.co_names
    dtypes = {name: x for name in names if isinstance(x := getattr(torch, name, None), torch.dtype)}
    kernels = [name for name in names if name.startswith("cpp_fused") and name in known]
    if not {*kernels, *dtypes, *_ALLOCATED, *_CHECKED, "torch", "clear"}.issuperset(names):
        return None
    entries = {}
    try:
        for name in kernels:
            # The extension that torch made for one kernel has it as a C function of this name.
            library = ctypes.CDLL(known[name].__self__.__file__)
            address = ctypes.cast(library.kernel, ctypes.c_void_p).value
            if address is None:
                return None
            entries[name] = (address, (library, known[name]))
    except (AttributeError, OSError):
        return None
    rest = {name: lambda *_: None for name in _CHECKED}
    return _Code(entries, {**rest, "torch": types.SimpleNamespace(**dtypes)})


def _noted(call: CompiledCall, function: types.FunctionType, code: _Code) -> Kernels | None:
    calls: list[tuple[int, list[int]]] = []
    held: list[Any] = [*call.arguments, function, code]

    def noting(entry: int) -> Callable[..., None]:
        return lambda *arguments: calls.append((entry, [_number(x) for x in arguments]))

    def keeping(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*arguments: Any) -> Tensor:
            found = make(*arguments)
            held.append(found)
            return found

        return made

    names = dict(code.rest)
    names |= {name: noting(entry) for name, (entry, _) in code.entries.items()}
    names |= {n: keeping(x) for n in _ALLOCATED if (x := function.__globals__.get(n)) is not None}
    noted = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    noted(getattr(call.code, "__self__", None), call.arguments.copy())
    fits = all(0 < len(arguments) <= MOST_ARGUMENTS for _, arguments in calls)
    given = tuple([x for x in call.arguments if isinstance(x, Tensor)])
    return Kernels(calls, tuple(held), given) if calls and fits else None


def _number(x: Any) -> int:
    """An argument as an address or whole number.

    Raises:
        TypeError: for anything else.
    """
    if type(x) is int:
        return x
    if not (isinstance(x, Tensor) and x.is_cpu and (begin := storage_address(x))):
        raise TypeError
    return begin + int(x.storage_offset()) * x.element_size()
