"""What the implementations of the pairwise reductions share.

The score of row i and column j is s_ij = scale <x_i, y_j> + bias_j. Squared distances are scores:
-|x - y|^2 = 2 <x, y> - |y|^2 up to a number of the row alone, which callers add themselves.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fastgen.kernels.contract import Noise, Stream, check_noise

# Columns of a tile; a sample spends two uniforms on each tile of a row (csrc/sinkhorn/stream.h).
TILE = 256
# A score that is none: no product of finite points comes near it.
NOWHERE = -1e30


class Keys(NamedTuple):
    """Which uniforms a sample uses: the noise contract's bits, two words for each tile.

    seeds: int64 [1] or [rows]; sample_ids: int64 [rows]; draw: 0 <= draw < 2^32. Tile t takes
    words 2 (t % 2) and 2 (t % 2) + 1 of Philox block t // 2, as u = (word + 1/2) 2^-32.
    """

    seeds: Tensor
    sample_ids: Tensor
    draw: int
    stream: int = Stream.PLAN


def check_pairs(x: Tensor, y: Tensor, bias: Tensor) -> None:
    """Raise a ValueError that names the argument where a call is malformed."""
    if x.dtype not in (torch.float32, torch.float64) or x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(
            f"x: expected float32 or float64 [rows, dims > 0], got {x.dtype} {list(x.shape)}"
        )
    if y.dtype != x.dtype or y.ndim != 2 or y.shape[1] != x.shape[1] or y.shape[0] == 0:
        raise ValueError(
            f"y: expected {x.dtype} [columns > 0, {x.shape[1]}], got {y.dtype} {list(y.shape)}"
        )
    if bias.dtype != torch.float64 or bias.shape != y.shape[:1]:
        raise ValueError(
            f"bias: expected float64 [{y.shape[0]}], got {bias.dtype} {list(bias.shape)}"
        )
    for name, tensor in (("y", y), ("bias", bias)):
        if tensor.device != x.device:
            raise ValueError(f"{name}: expected device {x.device}, got {tensor.device}")


def check_values(values: Tensor, y: Tensor) -> None:
    """Raise a ValueError if there is not one row of values for each column."""
    if values.dtype != y.dtype or values.ndim != 2 or values.shape[0] != y.shape[0]:
        raise ValueError(
            f"values: expected {y.dtype} [{y.shape[0]}, features], "
            f"got {values.dtype} {list(values.shape)}"
        )
    if values.device != y.device:
        raise ValueError(f"values: expected device {y.device}, got {values.device}")


def check_keys(keys: Keys, x: Tensor) -> None:
    """Raise a ValueError that names the field where keys do not fit."""
    nothing = torch.empty(0, dtype=torch.int64, device=x.device)
    check_noise(Noise(keys.seeds, keys.sample_ids, nothing, keys.stream), x.shape[0], x.device)
    if not 0 <= keys.draw < 2**32:
        raise ValueError(f"keys.draw={keys.draw}: expected 0 <= draw < 2^32")
