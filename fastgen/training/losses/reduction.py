"""From errors to a loss: one number per sample, weights, then the mean."""

from __future__ import annotations

import torch
from torch import Tensor

import fastgen.kernels as kernels
from fastgen.common.checks import check_choice, check_shape, rows_of
from fastgen.common.padding import Padding
from fastgen.kernels import Noise
from fastgen.model.output import check_output

REDUCTIONS = ("mean", "none")


def mean_square(error: Tensor, padding: Padding | None = None) -> Tensor:
    """The mean of squares over all but the batch axis, [B], in at least float32.

    With padding over the live elements; 0 for a sample that has none.
    """
    if padding is not None:
        total = sum_square(error, padding)
        return total / padding.count[:, 0].clamp(min=1).to(total.dtype)
    error = error.float() if error.dtype in (torch.bfloat16, torch.float16) else error
    return rows_of(error.square()).mean(1)


def sum_square(error: Tensor, padding: Padding | None = None) -> Tensor:
    """The sum of squares over all but the batch axis, [B], in at least float32."""
    error = error if padding is None else padding.clear(error)
    error = error.float() if error.dtype in (torch.bfloat16, torch.float16) else error
    return rows_of(error.square()).sum(1)


def padding_of(mask: Tensor | None, data: Tensor) -> Padding | None:
    """The padding of data, where a mask says that there is some."""
    return None if mask is None else Padding(mask, data, name="data")


def bridged(
    x0: Tensor | None,
    x1: Tensor,
    table: Tensor,
    when: Tensor,
    noise: Noise,
    padding: Padding | None,
    *,
    noisy: bool = True,
) -> tuple[Tensor, ...]:
    """`kernels.bridge` on the live elements: with the noise of samples without padding."""
    if padding is None:
        return tuple(kernels.bridge(x0, x1, table, when, noise, noisy=noisy))
    source = None if x0 is None else padding.packed(x0)
    t, *found = kernels.bridge(source, padding.packed(x1), table, when, noise, noisy=noisy)
    return t, *[padding.unpacked(x) for x in found]


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
