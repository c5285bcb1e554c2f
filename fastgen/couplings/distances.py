"""Wasserstein distances between clouds of points."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from fastgen.common.checks import (
    check_at_least,
    check_choice,
    check_finite,
    check_floating,
    check_real_device,
    check_shape,
)
from fastgen.common.compiling import uncompiled
from fastgen.common.transforms import BACKWARD, untransformed
from fastgen.common.typed import typed
from fastgen.couplings.assignment import assign
from fastgen.couplings.costs import Cost
from fastgen.couplings.points import check_batch
from fastgen.couplings.uniform import uniform_plan
from fastgen.noise.normals import randn

METHODS = ("exact", "sliced")
# Directions projected on at once, fewer of many points: Ctrl-C is heard between them.
CHUNK, MOST_PROJECTED = 64, 1 << 21


@uncompiled
@untransformed(BACKWARD)
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
    r"""The distance of the two empirical measures, whose points have equal weights.

    .. math:: W_p = \Bigl(\min_P \sum_{ij} P_{ij} |x_0[i] - x_1[j]|^p\Bigr)^{1/p}

    With n = m the plan P is an assignment, otherwise one of the network simplex method.

    Args:
        x0: [n, ...]; points are flattened. x1: [m, ...]; as many for method="sliced".
        p: at least 1.
        method: "exact", or "sliced": the p-th root of the mean of W_p^p of the projections on
            random directions (Rabin et al. 2011; Bonneel et al. 2015), O(n log n).
        directions: of the sliced distance, uniform on the sphere.
        seed: of the directions.

    Raises:
        ValueError: naming the argument, for points of different shapes, NaN or infinite numbers,
            p < 1, an unknown method, distances whose powers do not fit in float64.
    """
    check_choice("method", method, METHODS)
    if not 1 <= p < float("inf"):
        raise ValueError(f"p={p}: expected a finite number of at least 1")
    check_batch("x0", x0)
    check_batch("x1", x1)
    n, unit = len(x0), _unit(x0, x1)
    if unit != 1:  # powers of the distances would not fit in float64
        first, second = (x.detach().double() / unit for x in (x0, x1))
        return unit * wasserstein(first, second, p, method, directions=directions, seed=seed)
    if method == "sliced":
        check_shape("x1", x1, x0.shape, like="x0")
        return _sliced(x0.reshape(n, -1), x1.reshape(n, -1), p, directions, seed)
    check_shape("x1", x1, (len(x1), *x0.shape[1:]), like="x0")
    cost: Cost = "euclidean" if p == 1 else "sqeuclidean"
    if p not in (1, 2):
        cost = _powers(x0, x1, p)
    if len(x1) == n:
        total, parts = assign(x0, x1, cost=cost).cost, n
    else:
        plan, parts = uniform_plan(x0, x1, cost)
        total = plan.cost
    return float((total / parts) ** (1 / p))


def _unit(x0: Tensor, x1: Tensor) -> float:
    """A power of two in which very large or small points are near 1; 1 for others."""
    for name, x in (("x0", x0), ("x1", x1)):
        check_floating(name, x)
        check_real_device(name, x)
    largest = max(x.abs().max().item() for x in (x0, x1))
    if not 0 < largest < math.inf or 1e-20 < largest < 1e20:
        return 1.0
    return 2.0 ** max(min(math.frexp(largest)[1], 1020), -1020)


def _powers(x0: Tensor, x1: Tensor, p: float) -> Tensor:
    first, second = (x.detach().reshape(len(x), -1).double() for x in (x0, x1))
    check_finite("x0", first)
    check_finite("x1", second)
    found = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist").pow(p)
    if not found.isfinite().all():
        raise ValueError(f"p={p}: powers of the distances do not fit in float64; rescale x0 and x1")
    return found


def _sliced(x0: Tensor, x1: Tensor, p: float, directions: int, seed: int) -> float:
    check_at_least("directions", directions, 1)
    check_finite("x0", x0)
    check_finite("x1", x1)
    axes = randn((directions, x0.shape[1]), seed=seed, device=x0.device).double()
    axes = axes / axes.norm(dim=1, keepdim=True)
    total = 0.0
    chunk = max(1, min(CHUNK, MOST_PROJECTED // len(x0)))
    clouds = x0.double(), x1.double()
    for part in axes.tensor_split(-(-directions // chunk)):
        first, second = ((x @ part.T).sort(0).values for x in clouds)
        total += (first - second).abs().pow(p).sum().item()
    return float((total / (len(x0) * directions)) ** (1 / p))
