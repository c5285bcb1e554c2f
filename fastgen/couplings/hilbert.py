"""Places of points on a Hilbert curve."""

from __future__ import annotations

import torch
from torch import Tensor

MOST_DIMS = 31


def hilbert_index(x: Tensor) -> Tensor:
    """The place of each point on the Hilbert curve through the points' bounding box.

    Skilling's algorithm ("Programming the Hilbert curve", 2004): coordinates in b bits are
    brought to the transposed index by exclusive ors and exchanges, bit by bit from the highest.

    Args:
        x: [n, d], d <= 31.

    Returns:
        int64 [n], in [0, 2^(b d)) with b = min(16, 62 // d).

    Raises:
        ValueError: for more dimensions.
    """
    dims = x.shape[1]
    if not 1 <= dims <= MOST_DIMS:
        raise ValueError(f"x: expected at most {MOST_DIMS} dimensions, got {dims}; project first")
    bits = min(16, 62 // dims)
    low = x.amin(0)
    span = (x.amax(0) - low).double()
    unit = (x - low).double() / torch.where(span > 0, span, 1.0)
    axes = list((unit * (2**bits - 1)).round().long().unbind(1))
    for level in range(bits - 1, 0, -1):
        mask = (1 << level) - 1
        for k in range(dims):
            inverted = (axes[k] >> level & 1).bool()
            exchange = torch.where(inverted, 0, (axes[0] ^ axes[k]) & mask)
            axes[0] = axes[0] ^ torch.where(inverted, mask, exchange)
            if k:
                axes[k] = axes[k] ^ exchange
    for k in range(1, dims):
        axes[k] = axes[k] ^ axes[k - 1]
    flips = torch.zeros_like(axes[0])
    for level in range(bits - 1, 0, -1):
        flips = flips ^ torch.where((axes[-1] >> level & 1).bool(), (1 << level) - 1, 0)
    index = torch.zeros_like(flips)
    for level in range(bits - 1, -1, -1):
        for axis in axes:
            index = index << 1 | ((axis ^ flips) >> level & 1)
    return index
