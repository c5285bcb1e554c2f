"""Valid calls of `torch.ops.fastgen.*`, as entry points make them: a saved graph has just these."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.modes.entries import ENTRIES
from tests.modes.modes import states


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple[Any, list[Any], dict[str, Any]]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function.namespace == "fastgen":
            self.calls.setdefault(str(function), (function, list(args), dict(kwargs or {})))
        return function(*args, **(kwargs or {}))


def recorded() -> dict[str, tuple[Any, list[Any], dict[str, Any]]]:
    """One call of each operator that the entry points use: function, args, kwargs."""
    recorder = _Recorder()
    for entry in ENTRIES.values():
        try:
            with recorder:
                entry.run(states())
        except Exception:  # modes are tested elsewhere
            continue
    return recorder.calls


def altered(value: Any, mistake: Any, index: int) -> Any:
    """The mistake in the place of a value, or of one element of a list."""
    if isinstance(value, list | tuple) and value and index % 2:
        copy = list(value)
        copy[index % len(copy)] = mistake
        return copy
    return mistake


def copied(value: Any) -> Any:
    """The value with its own memory."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, list | tuple):
        return [copied(v) for v in value]
    return value
