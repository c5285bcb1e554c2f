"""From errors to a loss: one number per sample, weights, then the mean."""

from __future__ import annotations

import torch
from torch import Tensor

REDUCTIONS = ("mean", "none")


def mean_square(error: Tensor) -> Tensor:
    """The mean of squares over all but the batch axis, [B], in at least float32."""
    error = error.float() if error.dtype in (torch.bfloat16, torch.float16) else error
    return error.square().flatten(1).mean(1)


def sum_square(error: Tensor) -> Tensor:
    """The sum of squares over all but the batch axis, [B], in at least float32."""
    error = error.float() if error.dtype in (torch.bfloat16, torch.float16) else error
    return error.square().flatten(1).sum(1)


def reduced(loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """weight * loss [B] for reduction="none", or its mean.

    Raises:
        ValueError: for another reduction, or weights that are not [B].
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction={reduction!r}: expected 'mean' or 'none'")
    if weight is not None:
        if weight.shape != loss.shape:
            raise ValueError(f"weight: expected {list(loss.shape)}, got {list(weight.shape)}")
        loss = weight.to(loss.dtype) * loss
    return loss if reduction == "none" else loss.mean()


def same_shape(name: str, output: Tensor, like: Tensor) -> None:
    """Raise a ValueError unless an output has the shape of what it is compared with.

    Broadcasting would train something else without a word.
    """
    if output.shape != like.shape:
        raise ValueError(f"{name}: expected shape {tuple(like.shape)}, got {tuple(output.shape)}")
