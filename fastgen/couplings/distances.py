"""Wasserstein distances between clouds of points."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fastgen.common.checks import check_at_least, check_choice, check_finite, check_shape
from fastgen.common.typed import typed
from fastgen.couplings.assignment import assign
from fastgen.couplings.points import check_batch
from fastgen.noise.normals import randn

METHODS = ("exact", "sliced")
# Directions projected on at once.
CHUNK = 64


@typed
def wasserstein(
    x0: Tensor,
    x1: Tensor,
    p: float = 2,
    method: Literal["exact", "sliced"] = "exact",
    *,
    directions: int = 256,
    seed: int = 0,
) -> float:
    r"""The distance of the two empirical measures.

    .. math:: W_p = \Bigl(\min_\pi \tfrac1n \sum_i |x_0[i] - x_1[\pi(i)]|^p\Bigr)^{1/p}

    Args:
        x0: [n, ...]; points are flattened. x1: [n, ...].
        p: at least 1.
        method: "exact", or "sliced": the p-th root of the mean of W_p^p of the projections on
            random directions (Rabin et al. 2011; Bonneel et al. 2015), O(n log n).
        directions: of the sliced distance, uniform on the sphere.
        seed: of the directions.

    Raises:
        ValueError: naming the argument, for clouds of different sizes, NaN or infinite numbers,
            p < 1, an unknown method.
    """
    check_choice("method", method, METHODS)
    if not 1 <= p < float("inf"):
        raise ValueError(f"p={p}: expected a finite number of at least 1")
    check_batch("x0", x0)
    check_batch("x1", x1)
    check_shape("x1", x1, x0.shape, like="x0")
    n = len(x0)
    if method == "sliced":
        return _sliced(x0.reshape(n, -1), x1.reshape(n, -1), p, directions, seed)
    if p in (1, 2):
        found = assign(x0, x1, cost="euclidean" if p == 1 else "sqeuclidean")
    else:
        found = assign(x0, x1, cost=lambda a, b: _powers(a, b, p))
    return float((found.cost / n) ** (1 / p))


def _powers(x0: Tensor, x1: Tensor, p: float) -> Tensor:
    first, second = (x.reshape(len(x), -1).double() for x in (x0, x1))
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist").pow(p)


def _sliced(x0: Tensor, x1: Tensor, p: float, directions: int, seed: int) -> float:
    check_at_least("directions", directions, 1)
    check_finite("x0", x0)
    check_finite("x1", x1)
    axes = randn((directions, x0.shape[1]), seed=seed, device=x0.device).double()
    axes = axes / axes.norm(dim=1, keepdim=True)
    total = 0.0
    for part in axes.tensor_split(-(-directions // CHUNK)):
        first, second = ((x.double() @ part.T).sort(0).values for x in (x0, x1))
        total += (first - second).abs().pow(p).sum().item()
    return float((total / (len(x0) * directions)) ** (1 / p))
