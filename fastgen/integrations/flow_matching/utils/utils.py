"""Small functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.common.checks import check_choice


def unsqueeze_to_match(source: Tensor, target: Tensor, how: str = "suffix") -> Tensor:
    """``source`` with as many axes as ``target``: ones at its end, or "prefix", at its start."""
    check_choice("how", how, ("prefix", "suffix"))
    ones = (1,) * (target.ndim - source.ndim)
    return source.reshape(ones + source.shape if how == "prefix" else source.shape + ones)


def expand_tensor_like(input_tensor: Tensor, expand_to: Tensor) -> Tensor:
    """Numbers [B] in the shape [B, ...] of ``expand_to``.

    Raises:
        ValueError: if there is not one number for each of its rows.
    """
    if input_tensor.shape != expand_to.shape[:1]:
        raise ValueError(
            f"input_tensor: expected shape {tuple(expand_to.shape[:1])}, got "
            f"{tuple(input_tensor.shape)}"
        )
    return unsqueeze_to_match(input_tensor, expand_to).expand_as(expand_to)


def gradient(
    output: Tensor,
    x: Tensor,
    grad_outputs: Tensor | None = None,
    create_graph: bool = False,
) -> Tensor:
    """The gradient of <output, grad_outputs> in x; by default of the sum of output."""
    weights = torch.ones_like(output) if grad_outputs is None else grad_outputs
    (found,) = torch.autograd.grad(output, x, weights, create_graph=create_graph)
    return found
