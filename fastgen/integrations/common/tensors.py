"""Tensors that users hand to a drop-in: checks of states and outputs, and factors of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.common.checks import check_tensor
from fastgen.kernels.contract import DTYPE_CODES
from fastgen.model.output import described


def check_state(name: str, x: Tensor) -> None:
    """Raise a ValueError unless x is a real tensor [B, ...] of a dtype that kernels know."""
    check_tensor(name, x)
    if x.dtype not in DTYPE_CODES or x.ndim == 0:
        raise ValueError(f"{name}: expected a real tensor [B, ...], got {x.dtype} {tuple(x.shape)}")


def check_output(call: str, output: object, shape: torch.Size, device: torch.device) -> None:
    """Raise a ValueError unless a network's output is a real tensor of that shape and device.

    Args:
        call: how the network is called, beginning with its name.
        output: what it returned.
        shape: of the state it was called with.
        device: of that state.
    """
    if (
        not isinstance(output, Tensor)
        or output.shape != shape
        or output.dtype not in DTYPE_CODES
        or output.device != device
    ):
        name = call.partition("(")[0]
        found = described(output, tuple(shape), device, name)
        raise ValueError(
            f"{name}: expected a real tensor {tuple(shape)} on {device} from {call}, got {found}"
        )


def append_axes(factor: Tensor, like: Tensor) -> Tensor:
    """A factor [B], or of more of the first axes of ``like``, as it multiplies that tensor.

    One without axes stays so: its dtype then has no part in that of the product.
    """
    missing = like.ndim - factor.ndim
    return factor.reshape(factor.shape + (1,) * missing) if factor.ndim else factor
