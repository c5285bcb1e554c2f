"""Linear systems of observations: conjugate gradients for each sample of a batch at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastgen.common.checks import per_row, rows_of
from fastgen.observations.observation import Local


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], right: Tensor, iterations: int
) -> Tensor:
    """x [B, ...] with M x = right for each sample's own symmetric positive M.

    Every sample has its own step sizes. One that has arrived, or whose matrix is not positive along
    the direction (a network's Jacobian need not be), stays where it is: nothing is divided by 0,
    and no number is looked at on the host. There are at most as many iterations as numbers.

    Args:
        apply: v to M v for all samples.
        right: [B, ...].
        iterations: products with M.

    Source:
        Hestenes and Stiefel 1952, J. Res. Nat. Bur. Standards 49, 409.
    """
    count = min(iterations, math.prod(right.shape[1:]))
    x = torch.zeros_like(right)
    residual = direction = right
    square = _inner(residual, residual)
    end = square * torch.finfo(right.dtype).eps ** 2
    for k in range(count):
        image = apply(direction)
        curvature = _inner(direction, image)
        going = (curvature > 0) & (square > end)
        step = torch.where(going, square / torch.where(going, curvature, 1), 0)
        x = x + per_row(step, x) * direction
        if k == count - 1:
            break
        residual = residual - per_row(step, x) * image
        before, square = square, _inner(residual, residual)
        turn = torch.where(going, square / torch.where(going, before, 1), 0)
        direction = residual + per_row(turn, x) * direction
        square = torch.where(going, square, 0)  # one that has stopped stays
    return x


def conjugate_residuals(
    apply: Callable[[Tensor], Tensor], right: Tensor, iterations: int
) -> Tensor:
    """x [B, ...] with M x = right for each sample's own M, which need not be symmetric.

    The directions' images are made orthogonal, so that after each iteration |right - M x| is the
    least that the directions so far allow (GMRES in another form). It never grows: a network's
    Jacobian is only nearly symmetric, and conjugate gradients run away on it.

    Args:
        apply: v to M v for all samples.
        right: [B, ...].
        iterations: products with M, at most as many as there are numbers.

    Source:
        Eisenstat, Elman and Schultz 1983, SIAM J. Numer. Anal. 20, 345 (generalised conjugate
        residuals).
    """
    count = min(iterations, math.prod(right.shape[1:]))
    x, residual = torch.zeros_like(right), right
    smallest = torch.finfo(right.dtype).tiny
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(count):
        direction, image = residual, apply(residual)
        for earlier, its_image, square in kept:
            share = per_row(torch.where(square > smallest, _inner(image, its_image) / square, 0), x)
            direction, image = direction - share * earlier, image - share * its_image
        square = _inner(image, image)
        step = torch.where(square > smallest, _inner(residual, image) / square, 0)
        x = x + per_row(step, x) * direction
        residual = residual - per_row(step, x) * image
        kept.append((direction, image, square))
    return x


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample, [B]."""
    return (rows_of(a) * rows_of(b)).sum(1)


def pulled(near: Local, prior: Tensor, exact: bool, iterations: int) -> Tensor:
    """A^T (A A^T + Sigma / s)^-1 (y - A x): the way to the observation for a prior variance s.

    Args:
        near: the observation at x.
        prior: s, broadcastable to the samples [B, ...].
        exact: whether Sigma is 0: then it is A^+ (y - A x), whatever s is.
        iterations: of conjugate gradients; a mask needs none.
    """
    if near.weights is not None:
        way = near.weights * near.residual
        return way if exact else way / (1 + near.variance / prior)
    if exact and near.inverse is not None:
        return near.inverse(near.residual)
    s = per_row(prior, near.residual)

    def apply(w: Tensor) -> Tensor:
        image = near.forward(near.transpose(w))
        return image if exact else s * image + near.variance * w

    found = near.transpose(conjugate_gradients(apply, near.residual, iterations))
    return found if exact else prior * found
