"""Networks of points in the plane, with torchcfm's names of parameters."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Three hidden layers of w SELU units on x [B, dim], or on [x, t], [B, dim + 1].

    Args:
        dim: of x.
        out_dim: of the output; None takes dim.
        w: width.
        time_varying: whether the last column is a time.
    """

    def __init__(
        self, dim: int, out_dim: int | None = None, w: int = 64, time_varying: bool = False
    ) -> None:
        super().__init__()
        self.time_varying = time_varying
        sizes = [dim + time_varying, w, w, w]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.SELU()]
        self.net = nn.Sequential(*layers, nn.Linear(w, dim if out_dim is None else out_dim))

    def forward(self, x: Tensor) -> Tensor:
        """The output [B, out_dim]."""
        found: Tensor = self.net(x)
        return found


class GradModel(nn.Module):
    """The gradient of sum(action(x)) in all columns of x [B, dim + 1] but the last, the time."""

    def __init__(self, action: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.action = action

    def forward(self, x: Tensor) -> Tensor:
        """The gradient [B, dim], itself differentiable."""
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.action(x).sum(), x, create_graph=True)
        return gradient[:, :-1]


__all__ = ["MLP", "GradModel"]
