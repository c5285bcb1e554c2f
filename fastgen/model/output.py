"""What a network returned: one check for every route that calls it, and hints for its errors."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.common.checks import why_not_dense
from fastgen.common.tangents import carried
from fastgen.common.unwritten import check_unwritten, version
from fastgen.kernels.contract import DTYPE_CODES

# How far calls are followed from a function to the modules behind it.
_DEPTH = 4


def check_output(
    output: Any,
    shape: Sequence[int],
    device: torch.device,
    name: str = "net",
    where: str = "",
    *,
    call: str = "",
) -> Tensor:
    """A network's output, if it is a real tensor of that shape and device.

    Args:
        output: what the network returned.
        shape: that it must have.
        device: of the state.
        name: of the argument that the network was given as.
        where: a place for the message, such as "evaluation 3 of 12".
        call: how it is called, where that is not net(x, t).

    Raises:
        ValueError: saying what was expected, what came and how to wrap the network.
    """
    if (
        isinstance(output, Tensor)
        and why_not_dense(output) is None
        and output.shape == tuple(shape)
        and output.dtype in DTYPE_CODES
        and output.device == device
    ):
        return output
    place = f" at {where}" if where else ""
    source = f" from {call}" if call else ""
    raise ValueError(
        f"{name}: expected a real tensor of shape {tuple(shape)} on {device}{source}{place}, got "
        f"{described(output, tuple(shape), device, name)}"
    )


def described(output: Any, shape: tuple[int, ...], device: torch.device, name: str = "net") -> str:
    """What came, and what to do about it."""
    wrap = f"wrap it: lambda *args, **kwargs: {name}(*args, **kwargs)"
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        if output is None:
            return "None; the network must return its prediction"
        if isinstance(getattr(output, "sample", None), Tensor):
            return f"{kind}; {wrap}.sample, or pass return_dict=False and take [0]"
        if isinstance(output, Mapping):
            tensors = [key for key, value in output.items() if isinstance(value, Tensor)]
            key = "sample" if "sample" in tensors else next(iter(tensors), None)
            return kind if key is None else f"{kind} of {tensors}; {wrap}[{key!r}]"
        if isinstance(output, Sequence) and not isinstance(output, str):
            return f"{kind} of {len(output)}; {wrap}[0]" if len(output) else f"an empty {kind}"
        fields = [key for key, value in _attributes(output) if isinstance(value, Tensor)]
        return f"{kind}; {wrap}.{fields[0]}" if fields else f"{kind}, which is no tensor"
    reason = why_not_dense(output)
    if reason is not None:
        return f"a tensor of another kind: {reason}"
    found = f"{output.dtype} {tuple(output.shape)} on {output.device}"
    if output.shape != shape:
        channels = (*shape[:1], 2 * shape[1], *shape[2:]) if len(shape) > 1 else None
        if output.shape == channels:
            return f"{found}; a network with variances is Model(..., learned_variance=True)"
        return found
    if output.dtype not in DTYPE_CODES:
        remedy = ".real" if output.is_complex() else ".float()"
        return f"{found}; {wrap}{remedy}"
    return f"{found}; move the network or the state: they must be on one device"


def called(net: Callable[..., Any], x: Tensor, times: Sequence[Any], kwargs: Any) -> Any:
    """net(x, *times, **kwargs); errors about dtypes and devices say what to pass.

    Raises:
        RuntimeError: what the network raised, with the remedy where there is one.
        ValueError: if it changed x in place, or lost x's tangent in forward mode.
    """
    return carried("net", lambda x: _called(net, x, times, kwargs), x)


def _called(net: Callable[..., Any], x: Tensor, times: Sequence[Any], kwargs: Any) -> Any:
    before = version(x)
    try:
        found = net(x, *times, **kwargs)
    except RuntimeError as error:
        explain(error, net, x)
        raise
    check_unwritten("net", x, before)
    return found


def explain(error: RuntimeError, net: Callable[..., Any], x: Tensor) -> None:
    """Raise a network's error with its remedy, where its input's dtype or device is the cause."""
    hint = _hint(net, x, str(error))
    if hint:
        raise RuntimeError(f"net: {error}; {hint}") from error


def _hint(net: Callable[..., Any], x: Tensor, message: str) -> str:
    text = message.lower()
    modules = modules_of(net)
    if "device" in text:
        places = sorted({str(p.device) for m in modules for p in _tensors(m)})
        if any(place != str(x.device) for place in places):
            return (
                f"the state is on {x.device}, parameters are on {', '.join(places)}: pass device="
            )
    if "dtype" in text or "scalar type" in text or "input type" in text:
        kinds = {str(p.dtype) for m in modules for p in _tensors(m) if _real(p)}
        others = sorted(kinds - {str(x.dtype)})
        if others:
            return (
                f"its input is {x.dtype}, its parameters are {', '.join(sorted(kinds))}: pass "
                f"Model(..., dtype={others[0]})"
            )
    return ""


def modules_of(net: Any, depth: int = _DEPTH) -> list[nn.Module]:
    """The modules that a callable is, or reaches by what a function or an object holds."""
    if isinstance(net, nn.Module):
        return [net]
    if depth == 0 or isinstance(net, type):
        return []
    if isinstance(net, functools.partial):
        parts: list[Any] = [net.func, *net.args, *net.keywords.values()]
    elif isinstance(net, MethodType):
        parts = [net.__self__, net.__func__]
    elif isinstance(net, FunctionType):
        parts = [net.__globals__[n] for n in net.__code__.co_names if n in net.__globals__]
        parts = [part for part in parts if isinstance(part, (nn.Module, FunctionType))]
        parts += [net.__defaults__, net.__kwdefaults__, *vars(net).values()]
        for cell in net.__closure__ or ():
            with contextlib.suppress(ValueError):  # a name that is not bound yet
                parts.append(cell.cell_contents)
    elif isinstance(net, Mapping):
        parts = list(net.values())
    elif isinstance(net, (list, tuple)):
        parts = list(net)
    elif depth == _DEPTH or callable(net):  # an object of the user's
        parts = [value for _, value in _attributes(net)]
    else:
        return []
    found: list[nn.Module] = []
    for part in parts:
        found += [m for m in modules_of(part, depth - 1) if all(m is not other for other in found)]
    return found


def device_of(net: Callable[..., Any]) -> torch.device:
    """Where a network's parameters are; the CPU where it has none, or modules on several."""
    first = [next(_tensors(module), None) for module in modules_of(net)]
    places = {tensor.device for tensor in first if tensor is not None}
    return places.pop() if len(places) == 1 else torch.device("cpu")


def dtype_of(net: Callable[..., Any], state: torch.dtype) -> torch.dtype:
    """The dtype that a module wants its input in: that of most of its weights.

    Tables of embeddings are not read by the input, and norms, biases and positions are often kept
    in another dtype than the rest. What can only be stored, such as float8, does not count. Other
    callables are fed the state's dtype: only they know what they do with it.
    """
    if not isinstance(net, nn.Module):
        return state
    counts: dict[torch.dtype, int] = {}
    tables = {id(p) for m in net.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    parameters = [p for p in net.parameters() if _real(p)]
    kinds = {p.dtype for p in parameters}
    if len(kinds) < 2:
        return next(iter(kinds), state)
    for p in parameters:
        if id(p) not in tables and p.ndim > 1:
            counts[p.dtype] = counts.get(p.dtype, 0) + p.numel()
    return max(counts, key=counts.__getitem__) if counts else parameters[0].dtype


def _tensors(module: nn.Module) -> Any:
    return chain(module.parameters(), module.buffers())


def _real(tensor: Tensor) -> bool:
    return tensor.dtype in DTYPE_CODES


def _attributes(value: Any) -> list[tuple[str, Any]]:
    return list(vars(value).items()) if hasattr(value, "__dict__") else []
