"""Sets of points in the plane that are drawn: the toy problems of flow matching's papers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def eight_gaussians(
    count: int, rng: np.random.Generator, radius: float = 5.0, std: float = 1.0
) -> NDArray[np.float64]:
    """Eight Gaussians on a circle, [count, 2]."""
    angle = rng.integers(8, size=count) * (math.pi / 4)
    centres = radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.asarray(centres + std * rng.standard_normal((count, 2)))


def moons(count: int, rng: np.random.Generator, noise: float = 0.05) -> NDArray[np.float64]:
    """Two half circles that interlock, [count, 2]."""
    angle, lower = rng.uniform(0, math.pi, count), rng.integers(2, size=count) == 1
    x = np.where(lower, 1 - np.cos(angle), np.cos(angle))
    y = np.where(lower, 0.5 - np.sin(angle), np.sin(angle))
    return np.asarray(np.stack([x, y], 1) + noise * rng.standard_normal((count, 2)))


def s_curve(count: int, rng: np.random.Generator, noise: float = 0.05) -> NDArray[np.float64]:
    """A letter S, [count, 2]."""
    t = 3 * math.pi * (rng.uniform(size=count) - 0.5)
    points = np.stack([np.sin(t), np.sign(t) * (np.cos(t) - 1)], 1)
    return np.asarray(points + noise * rng.standard_normal((count, 2)))


def checkerboard(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Every second square of a board of side 4, [count, 2]."""
    column, row = rng.integers(4, size=count), rng.integers(2, size=count)
    corner = np.stack([column - 2, 2 * row + column % 2 - 2], 1)
    return np.asarray(corner + rng.uniform(size=(count, 2)))


# By the names that `fastgen.datasets.load` takes; moons and S scaled to a few units, as the rest.
SETS: dict[str, Callable[[int, np.random.Generator], NDArray[np.float64]]] = {
    "8gaussians": eight_gaussians,
    "moons": lambda count, rng: 2 * moons(count, rng) - np.array([1.0, 0.0]),
    "scurve": lambda count, rng: 1.5 * s_curve(count, rng),
    "checkerboard": checkerboard,
}
