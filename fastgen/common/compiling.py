"""Functions that torch.compile must leave as they are."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def uncompiled(function: Function) -> Function:
    """Keep a function, and all that it calls, out of torch.compile: it runs as it is.

    What `torch.compiler.disable` does, whose wrapper takes 1 us or more in every call. Here it is
    noted at the function and its code, and calls cost what they did. Where torch does not let us,
    it is that wrapper.
    """
    assert isinstance(function, FunctionType)
    try:
        from torch._C._dynamo.eval_frame import (
            _FrameAction,
            _FrameExecStrategy,
            set_code_exec_strategy,
        )

        skip = _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.SKIP)
        set_code_exec_strategy(function.__code__, skip)
    except (ImportError, AttributeError, TypeError):
        wrapped: Function = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
        return wrapped
    # What torch's own wrapper notes, for calls from a function that is compiled.
    vars(function).update(
        _torchdynamo_disable=True,
        _torchdynamo_disable_msg="it runs as prepared kernel calls",
        _torchdynamo_disable_recursive=True,
    )
    return function
