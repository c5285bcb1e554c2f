"""Batches of samples of different lengths: which elements are live, and which are padding.

Padding is 0 and stays 0, whatever a function returns there, and has no derivative. Means are those
over the live elements: a sample takes the steps that it takes without its padding.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class Padding:
    """The padding of states.

    Args:
        mask: True where an element is live; any shape that broadcasts to the state's. Of a state of
            several tensors one for each in the state's structure, None for a tensor without.
        like: the state [B, ...], or a tuple, list or dict of such.
        joint: one count for the whole batch instead of one for each sample.
        name: what the state is called in messages.

    Attributes:
        count: how many elements of each tensor are live, int64 [B, G] or [1, G].
        factor: sqrt(live / all) of the first tensor, float64 [B] or [1].

    Raises:
        TypeError, ValueError: for a mask that is not boolean, of another shape or structure.
    """

    def __init__(self, mask: Any, like: Any, joint: bool = False, name: str = "state") -> None:
        leaves, self.spec = pytree.tree_flatten(like)
        one = isinstance(like, Tensor)
        masks, spec = ([mask], self.spec) if one else pytree.tree_flatten(mask)
        if spec != self.spec:
            raise ValueError(
                f"mask: expected one for each tensor of the {name}, in its structure (None for one "
                f"without padding), got {type(mask).__name__} for {type(like).__name__}"
            )
        self._live = [
            None if m is None and not one else _expanded(m, x, name)
            for m, x in zip(masks, leaves, strict=True)
        ]
        rows = 1 if joint else len(leaves[0])
        sizes = [x.numel() // max(rows, 1) for x in leaves]
        device = leaves[0].device
        self.count = torch.stack(
            [
                torch.full((rows,), size, dtype=torch.int64, device=device)
                if live is None
                else live.reshape(rows, size).sum(1)
                for live, size in zip(self._live, sizes, strict=True)
            ],
            1,
        )
        self.factor = (self.count[:, 0].double() / max(sizes[0], 1)).sqrt()

    @property
    def live(self) -> Tensor:
        """Of a state of one tensor: True where an element is live, in its shape."""
        (live,) = self._live
        assert live is not None
        return live

    @cached_property
    def _places(self) -> Tensor:
        """Where each element [B, N] lies in `packed`: live ones first, in their order."""
        live = self.live.reshape(len(self.count), -1)
        behind = self.count + (~live).cumsum(1)
        return torch.where(live, live.cumsum(1), behind) - 1

    def packed(self, x: Tensor) -> Tensor:
        """A tensor of the state's shape as [B, N]: live elements, as without padding, then zeros.

        What is drawn for it, number by number, is what is drawn for samples without padding.
        """
        flat = self.clear(x).reshape(self._places.shape)
        found: Tensor = torch.zeros_like(flat).scatter(1, self._places, flat)
        return found

    def unpacked(self, x: Tensor) -> Tensor:
        """The inverse of `packed`, with zeros in the padding."""
        found: Tensor = self.clear(x.gather(1, self._places).reshape(self.live.shape))
        return found

    def clear(self, x: Any, rows: Tensor | None = None) -> Any:
        """States with zeros in the padding; of the samples ``rows``, or of all.

        A tensor may have more axes behind, as g of general noise. What fits nowhere is left as it
        is, for others to complain about.
        """
        if isinstance(x, Tensor) and len(self._live) == 1:
            return _cleared(x, self._live[0], rows)
        leaves, spec = pytree.tree_flatten(x)
        if spec != self.spec:
            return x
        found = [_cleared(x, live, rows) for x, live in zip(leaves, self._live, strict=True)]
        return pytree.tree_unflatten(found, spec)


def _expanded(mask: Any, like: Tensor, name: str) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype is not torch.bool:
        found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(
            f"mask: expected a tensor of booleans, True where an element is live, got {found}"
        )
    try:
        return mask.to(like.device).expand(like.shape)
    except RuntimeError:
        raise ValueError(
            f"mask: expected a shape that broadcasts to the {name}'s {list(like.shape)}, got "
            f"{list(mask.shape)}"
        ) from None


def _cleared(x: Any, live: Tensor | None, rows: Tensor | None) -> Any:
    if live is None:
        return x
    live = live if rows is None else live[rows]
    if not isinstance(x, Tensor) or x.shape[: live.ndim] != live.shape:
        return x
    live = live.reshape(*live.shape, *[1] * (x.ndim - live.ndim))
    return torch.where(live, x, torch.zeros((), dtype=x.dtype, device=x.device))
