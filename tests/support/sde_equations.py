"""Equations with solutions in closed form, and motions that can be refined."""

import math

import torch


class Fine:
    """Motions on [0, 1] simulated on a fine grid, with the exact (W, H) of coarser intervals."""

    def __init__(self, shape, levels, seed):
        generator = torch.Generator().manual_seed(seed)
        count = 2**levels
        self.h, self.count = 1 / count, count
        size = (count, *shape)
        w = torch.randn(size, dtype=torch.float64, generator=generator) * math.sqrt(self.h)
        h = torch.randn(size, dtype=torch.float64, generator=generator) * math.sqrt(self.h / 12)
        start = torch.zeros(1, *shape, dtype=torch.float64)
        self.w = torch.cat([start, w.cumsum(0)])
        # The integral of W over each fine interval, h (W_s + w / 2 + H), and its running sum.
        area = self.h * (self.w[:-1] + w / 2 + h)
        self.area = torch.cat([start, area.cumsum(0)])

    def _index(self, t):
        n = round(float(t) * self.count)
        assert abs(float(t) - n * self.h) < 1e-12
        return n

    def __call__(self, s, t):
        return self.w[self._index(t)] - self.w[self._index(s)]

    def with_area(self, s, t):
        a, b = self._index(s), self._index(t)
        increment = self.w[b] - self.w[a]
        mean = (self.area[b] - self.area[a]) / (t - s) - self.w[a]
        return increment, mean - increment / 2


def order(errors, steps):
    """The slope of log error against log step."""
    x = torch.tensor(steps, dtype=torch.float64).log()
    y = torch.stack([torch.as_tensor(e, dtype=torch.float64) for e in errors]).log()
    x, y = x - x.mean(), y - y.mean()
    return -float((x * y).sum() / (x * x).sum())


MU, SIGMA = 0.6, 0.9


def gbm(sde_type):
    """Geometric Brownian motion dy = mu y dt + sigma y dW as (f, g, exact(w, t))."""
    drift = MU if sde_type == "ito" else MU - SIGMA**2 / 2
    return (
        lambda t, y: drift * y,
        lambda t, y: SIGMA * y,
        lambda w, t: torch.exp((MU - SIGMA**2 / 2) * t + SIGMA * w),
    )


def sine_drift(t, y):
    return torch.sin(y) - t.reshape(-1, *[1] * (y.ndim - 1))


def cosine_diffusion(t, y):
    return 0.4 + 0.2 * torch.cos(y)
