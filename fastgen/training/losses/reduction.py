"""From errors to a loss: one number per sample, weights, then the mean."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.common.checks import check_choice, check_shape, rows_of
from fastgen.model.output import check_output

REDUCTIONS = ("mean", "none")


def mean_square(error: Tensor) -> Tensor:
    """The mean of squares over all but the batch axis, [B], in at least float32."""
    error = error.float() if error.dtype in (torch.bfloat16, torch.float16) else error
    return rows_of(error.square()).mean(1)


def sum_square(error: Tensor) -> Tensor:
    """The sum of squares over all but the batch axis, [B], in at least float32."""
    error = error.float() if error.dtype in (torch.bfloat16, torch.float16) else error
    return rows_of(error.square()).sum(1)


def check_prediction(name: str, output: Tensor, like: Tensor) -> None:
    """Raise a ValueError unless a network's output is a real tensor of a target's shape."""
    check_output(output, like.shape, like.device, name)


def reduced(loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """weight * loss [B] for reduction="none", or its mean.

    Raises:
        ValueError: for another reduction, or weights that are not [B].
    """
    check_choice("reduction", reduction, REDUCTIONS)
    if weight is not None:
        check_shape("weight", weight, loss.shape)
        loss = weight.to(loss.dtype) * loss
    return loss if reduction == "none" else loss.mean()
