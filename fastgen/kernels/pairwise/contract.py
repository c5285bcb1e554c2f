"""What the implementations of the pairwise reductions share.

The score of row i and column j is s_ij = scale <x_i, y_j> + bias_j. Squared distances are scores:
-|x - y|^2 = 2 <x, y> - |y|^2 up to a number of the row alone, which callers add themselves.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastgen.common.display import displayed
from fastgen.kernels.contract import Noise, Stream, check_noise

# Columns of a tile; a sample spends two uniforms on each tile of a row (csrc/pairwise/operation.h).
TILE = 256
# The bias of a column that is not there, in place of -infinity.
NOWHERE = -1e30
# Scores up to this size are computed in the dtype, with room for sums of two.
RANGES = {torch.float32: 1e37, torch.float64: 1e307}


@displayed
class Keys(NamedTuple):
    """Which uniforms a sample uses: the noise contract's bits, two words for each tile.

    seeds: int64 [1] or [rows]; sample_ids: int64 [rows]; draw: 0 <= draw < 2^32. Tile t takes
    words 2 (t % 2) and 2 (t % 2) + 1 of Philox block t // 2, as u = (word + 1/2) 2^-32.
    """

    seeds: Tensor
    sample_ids: Tensor
    draw: int
    stream: int = Stream.PLAN


@displayed
class Kept:
    """The terms softmax(s_i)_j of a sweep, kept for later sweeps over the same two clouds.

    Those change the bias alone. A sweep then needs one factor for each column, and no products or
    powers. It goes so far as rounding and the range of numbers allow: see `factors`.

    Args:
        limit: bytes. Where the terms take more, nothing is kept.
    """

    # Natural logarithms between the largest and the smallest factor. With 80 bits the terms lost
    # below the smallest float32, 2^-126, are 2^-46 of their row's sum or less.
    RANGE = 80 * math.log(2)

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.terms: Tensor | None = None
        self._made: tuple[float, Tensor, Tensor] | None = None

    def room(self, count: int, like: Tensor) -> Tensor | None:
        """Memory for that many terms of the dtype of `like`, or None; what it held is gone."""
        self._made = None
        if count * like.element_size() > self.limit:
            self.terms = None
        elif self.terms is None or self.terms.numel() != count or self.terms.dtype != like.dtype:
            self.terms = like.new_empty(count)
        return self.terms

    def keep(self, scale: float, bias: Tensor, sums: Tensor) -> None:
        """Terms are there, of these scores and log-sums of the rows."""
        self._made = scale, bias, sums

    def factors(self, scale: float, bias: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """The terms, the columns' factors, and the rows' log-sums to which these belong.

        Terms times factors, normalised anew, are the terms of `bias`. None where the terms are of
        other scores, or of a bias too far from this one.
        """
        if self.terms is None or self._made is None:
            return None
        made_scale, made_bias, sums = self._made
        if scale != made_scale or len(bias) != len(made_bias):
            return None
        change = bias - made_bias
        low, high = (x.item() for x in change.aminmax())
        if not high - low <= self.RANGE:  # also where a bias is -infinity
            return None
        middle = (low + high) / 2
        return self.terms, (change - middle).exp(), sums + middle


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
