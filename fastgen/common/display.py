"""How objects show themselves: a line or a few in a console, a table in a notebook.

Only what lies at hand is shown: shapes, dtypes, devices, and numbers that are in the CPU's memory.
No GPU is waited for.
"""

from __future__ import annotations

import functools
import html
import math
import numbers
import re
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fastgen.common.tensors import is_tensor

if TYPE_CHECKING:
    from torch import Tensor, nn

C = TypeVar("C", bound="type[Any]")

WIDTH = 96
# Entries of a dictionary, list or tuple that are shown, and characters of anything else.
_MOST_ENTRIES, _MOST_CHARACTERS = 8, 160
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def displayed(cls: C) -> C:
    """Class decorator: gives ``__repr__`` and ``_repr_html_``.

    They show what a method ``_facts`` returns, a dictionary from names to values; without one the
    fields of a dataclass or named tuple, or the public attributes. It goes above ``@dataclass``.
    """
    for name, method in (("__repr__", text_of), ("_repr_html_", html_of)):
        setattr(cls, name, method)
    return cls


def facts_of(value: Any) -> dict[str, Any]:
    """What an object says about itself, by name."""
    if hasattr(type(value), "_facts"):
        return dict(value._facts())
    if is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in fields(value) if f.repr}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: getattr(value, name) for name in value._fields}
    return {name: v for name, v in vars(value).items() if not name.startswith("_")}


def text_of(value: Any) -> str:
    """``Name(fact=value, ...)`` on one line, or on several where one is not enough."""
    name = type(value).__name__
    try:
        parts = [f"{k}={brief(v)}" for k, v in facts_of(value).items()]
    except Exception as error:  # half made, or of tensors that cannot be looked at: still shown
        return f"<{name}, not to be read: {type(error).__name__}>"
    line = f"{name}({', '.join(parts)})"
    if len(line) <= WIDTH:
        return line
    lines, current = [f"{name}("], ""
    for part in parts:
        if current and len(current) + len(part) + 6 > WIDTH:
            lines.append(f"    {current}")
            current = ""
        current = f"{current} {part}," if current else f"{part},"
    return "\n".join([*lines, f"    {current}", ")"])


def html_of(value: Any) -> str:
    """A table of the facts under the class's name, in the colours of the page it is on."""
    name = html.escape(type(value).__name__)
    try:
        facts = facts_of(value)
        rows = [(str(k), brief(v)) for k, v in facts.items()]
        below = value._more() if hasattr(type(value), "_more") else ""
    except Exception as error:
        rows, below = [("not to be read", type(error).__name__)], ""
    return html_table(name, rows, below)


def html_table(title: str, rows: list[tuple[str, str]], below: str = "") -> str:
    """Rows of a name and a text as HTML; ``title`` is HTML, ``below`` a text in a fold."""
    cell = "text-align: left; padding: 0.1em 1em 0.1em 0; background: none; border: none; "
    cell += "color: inherit"
    cells = [
        f'<tr><th style="{cell}; font-weight: normal">{html.escape(name)}</th>'
        f'<td style="{cell}; font-family: monospace">{html.escape(text)}</td></tr>'
        for name, text in rows
    ]
    fold = "<details><summary>program</summary><pre style='color: inherit; "
    fold += f"background: none; overflow-x: auto'>{html.escape(below)}</pre></details>"
    return (
        f'<div class="fastgen-object" style="color: inherit"><strong>{title}</strong>'
        '<table style="border-collapse: collapse; border: none; color: inherit"><tbody>'
        f"{''.join(cells)}</tbody></table>{fold if below else ''}</div>"
    )


def brief(value: Any) -> str:
    """One value in few characters: tensors as dtype and shape, functions by name."""
    of_torch = _of_torch(value) if "torch" in sys.modules else None  # else there is none
    if of_torch is not None:
        return of_torch
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, Unquoted):
        return value
    if isinstance(value, bool | str | type(None) | np.bool_):
        return _cut(repr(value))
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        exact = repr(float(value))
        return exact if len(exact) < 10 else f"{float(value):.6g}"
    if isinstance(value, Mapping):
        return _entries([f"{_key(k)}: {brief(v)}" for k, v in _first(value.items())], value, "{}")
    if isinstance(value, tuple | list) and type(value).__repr__ in (tuple.__repr__, list.__repr__):
        ends = "()" if isinstance(value, tuple) else "[]"
        return _entries([brief(v) for v in _first(value)], value, ends)
    if isinstance(value, functools.partial):
        return f"partial({brief(value.func)})"
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.MethodType):
        return _function(value)
    shown = repr(value)
    # Its lines are those of an object that breaks its own; here they are one.
    shown = re.sub(r"\n\s*", " ", shown).replace("( ", "(").replace(", )", ")")
    if _ADDRESS.search(shown):
        shown = type(value).__name__
    return _cut(shown)


class Unquoted(str):
    """A text that stands for itself, such as a size with its unit."""


def figure(x: Any, reduced: Callable[[Tensor], Tensor] | None = None) -> Any:
    """The number of a tensor (of what ``reduced`` makes of it) where it costs no wait.

    Otherwise the tensor, of which its metadata is shown: on other devices, without memory, or
    inside of what records.
    """
    if not is_tensor(x):
        return x
    import torch

    from fastgen.common.typed import is_dense

    if x.device.type != "cpu" or not is_dense(x) or x.is_meta or x.numel() == 0:
        return x
    try:
        with torch.no_grad():
            number = x.detach() if reduced is None else reduced(x.detach())
            return number.item() if number.numel() == 1 else x
    except Exception:  # fake tensors, those of torch.func and of graphs have no numbers
        return x


def _of_torch(value: Any) -> str | None:
    import torch

    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if isinstance(value, torch.nn.Module):
        return _network(value)
    if isinstance(value, torch.Size):
        return str(list(value))
    if isinstance(value, torch.dtype | torch.device):
        return str(value).removeprefix("torch.")
    return None


def _tensor(x: Tensor) -> str:
    import torch

    if x.is_nested or x.layout is not torch.strided:
        kind = "nested" if x.is_nested else str(x.layout).removeprefix("torch.")
        return f"{brief(x.dtype)} {kind}"
    place = "" if x.device.type == "cpu" else f" {x.device}"
    if x.ndim == 0:
        number = figure(x)
        if not is_tensor(number):
            return brief(number)
    return f"{brief(x.dtype)}{list(x.shape)}{place}"


def _network(net: nn.Module) -> str:
    name = type(net).__name__
    try:
        count = sum(p.numel() for p in net.parameters())
    except Exception:  # lazy modules do not know yet
        return name
    return f"{name}({count:,} parameters)"


def _function(value: Any) -> str:
    owner = getattr(value, "__self__", None)
    name = str(getattr(value, "__qualname__", type(value).__name__))
    name = "<lambda>" if name.endswith("<lambda>") else name.rpartition("<locals>.")[2]
    if isinstance(owner, type | types.ModuleType) or owner is None:
        return name
    return f"{type(owner).__name__}.{name.rpartition('.')[2]}"


def _first(items: Any) -> list[Any]:
    return [item for item, _ in zip(items, range(_MOST_ENTRIES), strict=False)]


def _entries(shown: list[str], value: Any, ends: str) -> str:
    left = len(value) - len(shown)
    more = [f"... {left} more"] if left > 0 else []
    comma = "," if ends == "()" and len(value) == 1 else ""
    return f"{ends[0]}{', '.join([*shown, *more])}{comma}{ends[1]}"


def _key(key: Any) -> str:
    return repr(key) if isinstance(key, str) else brief(key)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."


def extent(x: Tensor) -> Any:
    """The smallest and largest of some numbers, "3" or "3 to 17", where it costs no wait."""
    low, high = figure(x, lambda x: x.amin()), figure(x, lambda x: x.amax())
    if is_tensor(low) or is_tensor(high):
        return x
    if low == high or (math.isnan(low) and math.isnan(high)):
        return low
    return Unquoted(f"{brief(low)} to {brief(high)}")
