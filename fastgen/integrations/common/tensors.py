"""Tensors that users hand to a drop-in: checks of states, and factors of rows."""

from __future__ import annotations

from torch import Tensor

from fastgen.common.checks import check_tensor
from fastgen.kernels.contract import DTYPE_CODES


def check_state(name: str, x: Tensor) -> None:
    """Raise a ValueError unless x is a real tensor [B, ...] of a dtype that kernels know."""
    check_tensor(name, x)
    if x.dtype not in DTYPE_CODES or x.ndim == 0:
        raise ValueError(f"{name}: expected a real tensor [B, ...], got {x.dtype} {tuple(x.shape)}")


def append_axes(factor: Tensor, like: Tensor) -> Tensor:
    """A factor [B], or of more of the first axes of ``like``, as it multiplies that tensor.

    One without axes stays so: its dtype then has no part in that of the product.
    """
    missing = like.ndim - factor.ndim
    return factor.reshape(factor.shape + (1,) * missing) if factor.ndim else factor
