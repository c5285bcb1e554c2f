"""Clouds of points for couplings."""

import torch


def clouds(n, m, d, seed=0, spread=1.0):
    """x0 [n, d] ~ N(0, 1) and x1 [m, d] ~ N(1, spread^2)."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g), torch.randn(m, d, generator=g) * spread + 1
