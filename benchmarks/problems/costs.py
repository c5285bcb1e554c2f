"""Matrices of costs of the kinds that assignment problems have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray


def squares(x: Array, y: Array) -> Array:
    """Squared distances."""
    return np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T, 0)


def boxes(g: np.random.Generator, n: int) -> Array:
    """1 - intersection over union of boxes in a frame and of those a little later, in any order."""
    corners = 1000 * g.random((n, 2))
    first = np.concatenate([corners, corners + g.uniform(20, 120, (n, 2))], 1)
    second = first[g.permutation(n)] + g.normal(0, 5, (n, 4))
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(2)
    area, other = ((x[:, 2:] - x[:, :2]).prod(1) for x in (first, second))
    return 1 - common / (area[:, None] + other - common)


def sparse(g: np.random.Generator, n: int) -> Array:
    """A tenth of the pairs, at least eight a row, are allowed; some of them make a pairing."""
    costs = np.where(g.random((n, n)) < max(0.1, 8 / n), g.random((n, n)), np.inf)
    costs[np.arange(n), g.permutation(n)] = g.random(n)
    return costs


def points(g: np.random.Generator, kind: str, n: int, d: int) -> tuple[Array, Array]:
    """Two clouds [n, d]: "Gaussian" and a mixture, "heavy tails" (Cauchy) or ten "clusters"."""
    if kind == "heavy tails":
        return g.standard_cauchy((n, d)), g.standard_cauchy((n, d))
    if kind == "clusters":
        centres = 10 * g.normal(size=(10, d))
        first, second = (
            centres[g.integers(0, 10, n)] + 0.1 * g.normal(size=(n, d)) for _ in range(2)
        )
        return first, second
    return g.normal(size=(n, d)), 1.5 * g.normal(size=(n, d)) + g.integers(0, 3, (n, 1))


def of_points(kind: str, d: int) -> Callable[[np.random.Generator, int], Array]:
    """Squared distances of such clouds."""
    return lambda g, n: squares(*points(g, kind, n, d))


KINDS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "integers to 10": lambda g, n: g.integers(1, 11, (n, n)),
    "integers to 100": lambda g, n: g.integers(1, 101, (n, n)),
    "boxes": boxes,
    "uniform": lambda g, n: g.random((n, n)),
    "forbidden pairs": sparse,
    "Machol-Wien": lambda g, n: np.outer(np.arange(1, n + 1), np.arange(1, n + 1)),
    "Gaussian, d = 2": of_points("Gaussian", 2),
    "Gaussian, d = 16": of_points("Gaussian", 16),
    "Gaussian, d = 256": of_points("Gaussian", 256),
    "heavy tails, d = 2": of_points("heavy tails", 2),
    "heavy tails, d = 16": of_points("heavy tails", 16),
    "clusters, d = 16": of_points("clusters", 16),
}


def matrix(kind: str, n: int, seed: int = 0) -> Tensor:
    """Costs [n, n] of one of `KINDS`, float32; inf forbids a pair."""
    costs = KINDS[kind](np.random.default_rng(seed), n)
    return torch.from_numpy(np.ascontiguousarray(costs, dtype=np.float32))
