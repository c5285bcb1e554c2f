"""Manifolds by their exponential and logarithm; the last axis holds the coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastgen.training.paths.manifolds import OPPOSITE, perpendicular


class Manifold(nn.Module):
    """Points x and tangent vectors u [..., D]."""

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Where the geodesic from x with velocity u is after unit time."""
        raise NotImplementedError(f"{type(self).__name__} must define expmap(x, u)")

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """The u with expmap(x, u) = y of least length."""
        raise NotImplementedError(f"{type(self).__name__} must define logmap(x, y)")

    def projx(self, x: Tensor) -> Tensor:
        """The point of the manifold next to x."""
        raise NotImplementedError(f"{type(self).__name__} must define projx(x)")

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """The tangent vector at x next to u."""
        raise NotImplementedError(f"{type(self).__name__} must define proju(x, u)")


class Euclidean(Manifold):
    """R^D."""

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """x + u."""
        return x + u

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """y - x."""
        return y - x

    def projx(self, x: Tensor) -> Tensor:
        """x."""
        return x

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """u."""
        return u


class FlatTorus(Manifold):
    """Angles in [0, 2 pi)^D."""

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """x + u, modulo 2 pi."""
        return (x + u) % (2 * math.pi)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """y - x the short way round, in [-pi, pi]."""
        difference = y - x
        return torch.atan2(torch.sin(difference), torch.cos(difference))

    def projx(self, x: Tensor) -> Tensor:
        """x modulo 2 pi."""
        return x % (2 * math.pi)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """u."""
        return u


class Sphere(Manifold):
    """Unit vectors of R^D.

    EPS is flow_matching's, where its maps change to their limits; ours need no such bound.
    """

    EPS: ClassVar[dict[torch.dtype, float]] = {torch.float32: 1e-4, torch.float64: 1e-7}

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """cos|u| x + sin|u| / |u| u, smooth at u = 0."""
        square = (u * u).sum(-1, keepdim=True)
        small = square < 1e-8
        length = torch.where(small, torch.ones_like(square), square).sqrt()
        cosine = torch.where(small, 1 - square / 2, torch.cos(length))
        sinc = torch.where(small, 1 - square / 6, torch.sin(length) / length)
        return self.projx(cosine * x + sinc * u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """The angle between x and y times the unit tangent from x towards y.

        At opposite points, where it is not determined, it points in a fixed direction: that of the
        axis which x has least of.
        """
        tangent = self.proju(x, y)
        sine = torch.linalg.vector_norm(tangent, dim=-1, keepdim=True)
        cosine = (x * y).sum(-1, keepdim=True)
        opposite = (sine <= OPPOSITE * torch.finfo(x.dtype).eps) & (cosine < 0)
        tangent = torch.where(opposite, perpendicular(x), tangent)
        angle = torch.atan2(sine, cosine)
        sine = torch.where(opposite, torch.ones_like(sine), sine)
        ratio = torch.where(sine > 0, angle / sine.clamp(min=1e-30), torch.ones_like(sine))
        return tangent * ratio

    def projx(self, x: Tensor) -> Tensor:
        """x / |x|."""
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / length

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """u - <x, u> x."""
        return u - (x * u).sum(-1, keepdim=True) * x

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """The angle between x and y, in [0, pi], exact also where it is small."""
        sine = torch.linalg.vector_norm(self.proju(x, y), dim=-1, keepdim=keepdim)
        return torch.atan2(sine, (x * y).sum(-1, keepdim=keepdim))


def geodesic(
    manifold: Manifold, start_point: Tensor, end_point: Tensor
) -> Callable[[Tensor], Tensor]:
    """The path t -> exp(t log y) from the points x to the points y, [B, D].

    Its times are [B], or one time without axes.
    """
    tangent = manifold.logmap(start_point, end_point)

    def path(t: Tensor) -> Tensor:
        return manifold.expmap(start_point, t[..., None] * tangent)

    return path
