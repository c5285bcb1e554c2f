"""Batches of samples of different lengths: which elements are live, and which are padding.

Padding is 0 and stays 0, whatever a function returns there. A root mean square over all elements
is then that over the live ones times sqrt(live / all), so that tolerances times this factor give
the steps that a sample takes without its padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Padding:
    """The padding of states.

    Args:
        mask: True where an element is live; any shape that broadcasts to the state's.
        like: the state [B, ...].
        joint: one factor for the whole batch instead of one for each sample.

    Attributes:
        factor: sqrt(live / all), float64 [B] or [1].

    Raises:
        TypeError, ValueError: for a mask that is not boolean, or of another shape.
    """

    def __init__(self, mask: Any, like: Any, joint: bool = False) -> None:
        if not isinstance(like, Tensor):
            raise ValueError("mask: it is for a state of one tensor; put the parts into one")
        if not isinstance(mask, Tensor) or mask.dtype is not torch.bool:
            found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(
                f"mask: expected a tensor of booleans, True where an element is live, got {found}"
            )
        try:
            self.live = mask.to(like.device).expand(like.shape)
        except RuntimeError:
            raise ValueError(
                f"mask: expected a shape that broadcasts to the state's {list(like.shape)}, got "
                f"{list(mask.shape)}"
            ) from None
        rows = 1 if joint else like.shape[0]
        parts = self.live.reshape(rows, self.live.numel() // max(rows, 1))
        count = parts.shape[1] if parts.numel() else 1
        self.factor = (parts.sum(1, dtype=torch.float64) / count).sqrt()

    def clear(self, x: Any, rows: Tensor | None = None) -> Any:
        """States with zeros in the padding; of the samples ``rows``, or of all.

        x may have more axes behind, as g of general noise. What fits nowhere is left as it is, for
        others to complain about.
        """
        live = self.live if rows is None else self.live[rows]
        if not isinstance(x, Tensor) or x.shape[: live.ndim] != live.shape:
            return x
        live = live.reshape(*live.shape, *[1] * (x.ndim - live.ndim))
        return torch.where(live, x, torch.zeros((), dtype=x.dtype, device=x.device))
