"""Checks of a call of `gram`, which its implementations share."""

import torch
from torch import Tensor

from fastgen.kernels.contract import DTYPE_CODES

MAX_BRANCHES = 8


def check_gram(inputs: list[Tensor]) -> None:
    """Raise a ValueError that names the argument where a `gram` call is malformed."""
    if not 1 <= len(inputs) <= MAX_BRANCHES:
        raise ValueError(f"inputs: expected 1 to {MAX_BRANCHES} tensors, got {len(inputs)}")
    first = inputs[0]
    for i, x in enumerate(inputs):
        if x.shape != first.shape or x.ndim == 0:
            raise ValueError(
                f"inputs[{i}]: expected shape {tuple(first.shape)} like inputs[0], with a batch "
                f"axis, got {tuple(x.shape)}"
            )
        if x.device != first.device:
            raise ValueError(f"inputs[{i}]: expected device {first.device}, got {x.device}")
        if x.dtype not in DTYPE_CODES:
            raise ValueError(f"inputs[{i}]: expected one of {list(DTYPE_CODES)}, got {x.dtype}")


def matrices_like(inputs: list[Tensor]) -> Tensor:
    """Memory for the result of a call."""
    size = len(inputs) + 1
    shape = inputs[0].shape[0], size, size
    return torch.empty(shape, dtype=torch.float64, device=inputs[0].device)
