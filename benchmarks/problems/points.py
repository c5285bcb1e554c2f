"""Clouds of points to pair: noise on one side, moons or a mixture of ten Gaussians on the other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def clouds(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Noise and, on the plane, moons; else a mixture whose spectrum falls as a power law.

    Both [n, d], float32; the same for the same n + d.
    """
    g = np.random.default_rng(n + d)
    x0 = g.normal(size=(n, d))
    if d == 2:
        angle, upper = g.random(n) * np.pi, g.random(n) < 0.5
        x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
        y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
        x1 = (np.stack([x, y], 1) + 0.05 * g.normal(size=(n, 2))) * 2 - 1
    else:
        spectrum = np.arange(1, d + 1) ** -0.5
        means = g.normal(size=(10, d)) * 2 * spectrum
        x1 = means[g.integers(0, 10, n)] + g.normal(size=(n, d)) * spectrum
    return torch.tensor(x0, dtype=torch.float32), torch.tensor(x1, dtype=torch.float32)


def mixture(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Noise and, on the plane too, a mixture whose components lie further apart; float32."""
    g = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, d + 1) ** -0.5
    centres = 3 * torch.randn(10, d, generator=g) * spectrum
    data = centres[torch.randint(10, (n,), generator=g)]
    return torch.randn(n, d, generator=g), data + torch.randn(n, d, generator=g) * spectrum
