"""Priors that are mixtures of Gaussians, and their exact posteriors given linear observations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import fastgen
from benchmarks.problems.exact import patches
from fastgen.schedules import LinearVP, Schedule

SCHEDULE = LinearVP()


class Modes:
    """Equal-width Gaussians N(means, std^2) with weights; every posterior is another mixture."""

    def __init__(self, means: Tensor, weights: Tensor, std: float) -> None:
        self.means, self.weights, self.std = means, weights / weights.sum(), std
        self.dimension = means.shape[1]

    def denoise(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x_0 | x_t = x], x [B, n], alpha and sigma [B, 1] or numbers."""
        variance = (alpha * self.std) ** 2 + sigma**2
        inner = alpha * (x @ self.means.T) - alpha**2 / 2 * self.means.square().sum(1)
        mean = (self.weights.log() + inner / variance).softmax(1) @ self.means
        return mean + alpha * self.std**2 / variance * (x - alpha * mean)

    def model(self, schedule: Schedule) -> fastgen.Model:
        """The exact data prediction as a model."""

        def net(x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = (f(t)[:, None].to(x) for f in (schedule.alpha, schedule.sigma))
            return self.denoise(x, alpha, sigma)

        return fastgen.Model(net, schedule, "data", time_dtype=torch.float64)

    def given(self, matrix: Tensor, y: Tensor, noise: float, count: int, seed: int) -> Tensor:
        """Exact samples given y [m] = A x + noise z."""
        g = torch.Generator().manual_seed(seed)
        variance = self.std**2
        total = variance * matrix @ matrix.T + noise**2 * torch.eye(len(matrix))
        apart = y - self.means @ matrix.T
        solved = torch.linalg.solve(total, apart.T).T
        chosen = (self.weights.log() - (apart * solved).sum(1) / 2).softmax(0)
        means = self.means + variance * solved @ matrix
        gain = variance * torch.linalg.solve(total, matrix).T
        covariance = variance * (torch.eye(self.dimension) - gain @ matrix)
        root = torch.linalg.cholesky(covariance.double()).float()
        k = torch.multinomial(chosen, count, True, generator=g)
        return means[k] + torch.randn(count, self.dimension, generator=g) @ root.T


def grid_of_modes() -> tuple[Modes, Tensor, Tensor, float]:
    """25 modes in 8 dimensions, two observations of them with noise .3: (prior, A, y, noise)."""
    torch.manual_seed(0)
    n = 8
    means = torch.tensor(
        [[2.0 * i, 2.0 * j] * (n // 2) for i in range(-2, 3) for j in range(-2, 3)]
    )
    prior = Modes(means, torch.rand(25) + 0.2, 0.25)
    torch.manual_seed(3)
    matrix = torch.randn(2, n) / math.sqrt(n) * 1.5
    truth = means[7] + prior.std * torch.randn(n)
    return prior, matrix, matrix @ truth + 0.3 * torch.randn(2), 0.3


def smooth_digits(std: float = 0.2) -> Modes:
    """The digits of scikit-learn, 8 x 8 in [-1, 1], each with normal noise."""
    from sklearn.datasets import load_digits

    means = torch.from_numpy(load_digits().data / 8.0 - 1.0).float()
    return Modes(means, torch.ones(len(means)), std)


def smooth_patches(std: float = 0.1) -> Modes:
    """4096 patches of photographs, 3 x 8 x 8 in [-1, 1], each with normal noise."""
    pixels = patches(SCHEDULE).points.reshape(-1, 8, 8, 3).permute(0, 3, 1, 2)
    return Modes(pixels.flatten(1).float(), torch.ones(len(pixels)), std)


def sliced(x: Tensor, y: Tensor, directions: int = 2000) -> float:
    """The sliced Wasserstein-2 distance of two sets [N, n]."""
    g = torch.Generator().manual_seed(5)
    lines = torch.randn(x.shape[1], directions, generator=g)
    lines = lines / lines.norm(dim=0)
    apart = (x @ lines).sort(0).values - (y @ lines).sort(0).values
    return float(apart.square().mean().sqrt())
