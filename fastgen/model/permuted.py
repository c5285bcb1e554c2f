"""Networks whose axes are in another order than the state's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn


class Permuted(nn.Module):
    """A network of x [B, ...] for states whose sample's axes are in another order.

    Noise is a function of an element's number inside its sample, the last axis being the quickest.
    For a network of [B, channels, time] the noise of an element so depends on the length to which
    a batch is padded. With ``Permuted(net, (2, 1))`` states are [B, time, channels], and it does
    not: time is the first axis there. The copies cost one pass of input and output.

    Args:
        net: called as net(x, t, **kwargs).
        axes: the state's axes in the order in which net has them, such as (2, 1).

    Raises:
        ValueError: for axes that are not 1 .. n in some order.
    """

    def __init__(self, net: Callable[..., Tensor], axes: Sequence[int]) -> None:
        super().__init__()
        if sorted(axes) != list(range(1, len(axes) + 1)):
            raise ValueError(f"axes={tuple(axes)}: expected 1 .. n in some order, such as (2, 1)")
        self.net, self.axes = net, (0, *axes)
        self.back = tuple(self.axes.index(i) for i in range(len(self.axes)))

    def forward(self, x: Tensor, *times: Any, **kwargs: Any) -> Tensor:
        """net's output, in the state's order."""
        output = self.net(x.permute(self.axes).contiguous(), *times, **kwargs)
        return output.permute(self.back)
