"""Gradients that cannot be differentiated again, and say so."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_MESSAGE = b"fastgen: this gradient has no derivative of its own (it would count as zero)"


def differentiable_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator for the backward of an autograd.Function whose result is computed without graph.

    `torch.autograd.function.once_differentiable` refuses a second derivative only where the
    gradient that comes in has a graph: that of a plain sum would be zero, without a word. What the
    function saved leads back to its inputs, so that who takes unused inputs for zeros is told too.

    Raises:
        RuntimeError: when the gradient is differentiated.
    """

    @functools.wraps(backward)
    def called(ctx: Any, *gradients: Any) -> Any:
        with torch.no_grad():
            found = backward(ctx, *gradients)
        if not torch.is_grad_enabled():
            return found
        outputs = found if isinstance(found, tuple) else (found,)
        origins = [x for x in ctx.saved_tensors if x.requires_grad]
        stop: Any = torch._C._functions.DelayedError(_MESSAGE, len(outputs) + len(origins))
        followed = stop(*[_followed(x) for x in outputs], *origins)
        return followed[: len(outputs)]

    return called


def _followed(x: Any) -> Any:
    return x.detach().requires_grad_() if isinstance(x, Tensor) else x
