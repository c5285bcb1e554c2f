"""torchcfm's toy clouds, drawn with the same random numbers, and its plot of trajectories."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def eight_normal_sample(n: int, dim: int, scale: float = 1, var: float = 1) -> Tensor:
    """n points of eight Gaussians of covariance sqrt(var) I around a circle of radius scale.

    Args:
        n: how many.
        dim: 2.
        scale: radius.
        var: the square of their variance, as in torchcfm.
    """
    z = torch.randn(n, dim) * math.sqrt(math.sqrt(var))
    diagonal = 1 / math.sqrt(2)
    corners = [(x, y) for x in (diagonal, -diagonal) for y in (diagonal, -diagonal)]
    centers = torch.tensor([(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0), *corners]) * scale
    chosen = torch.multinomial(torch.ones(8), n, replacement=True)
    return centers[chosen] + z


def sample_8gaussians(n: int) -> Tensor:
    """`eight_normal_sample` of radius 5 and var 0.1."""
    return eight_normal_sample(n, 2, scale=5, var=0.1).float()


def sample_moons(n: int) -> Tensor:
    """Two half circles, three times as large and moved by -1, as torchdyn's generator has them.

    Its noise is one uniform number below 0.2 for both coordinates, of numpy's global stream.
    """
    outer, inner = (np.linspace(0, np.pi, k) for k in (n // 2, n - n // 2))
    x = np.concatenate([np.cos(outer), 1 - np.cos(inner)])
    y = np.concatenate([np.sin(outer), 0.5 - np.sin(inner)])
    points = np.stack([x, y], 1) + np.random.rand(n, 1) * 0.2
    return torch.tensor(points, dtype=torch.float32) * 3 - 1


class torch_wrapper(nn.Module):  # noqa: N801
    """A model of [x, t] as a field called with (t, x), for torchdyn's and torchdiffeq's solvers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, t: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The model at [x, t], [B, dim + 1]."""
        found: Tensor = self.model(torch.cat([x, t.repeat(len(x))[:, None]], 1))
        return found


def plot_trajectories(traj: Any) -> None:
    """Show the first 2000 paths [times, n, 2], from black to blue (needs matplotlib)."""
    import matplotlib.pyplot as plt

    first = traj[:, :2000]
    plt.figure(figsize=(6, 6))
    for points, size, alpha, color in (
        (first[0], 10, 0.8, "black"),
        (first.reshape(-1, 2), 0.2, 0.2, "olive"),
        (first[-1], 4, 1, "blue"),
    ):
        plt.scatter(points[:, 0], points[:, 1], s=size, alpha=alpha, c=color)
    plt.legend(["Prior sample z(S)", "Flow", "z(0)"])
    plt.xticks([])
    plt.yticks([])
    plt.show()


__all__ = [
    "eight_normal_sample",
    "plot_trajectories",
    "sample_8gaussians",
    "sample_moons",
    "torch_wrapper",
]
