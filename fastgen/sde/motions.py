"""What adaptive steps read of a Brownian motion: increments over a step and over its halves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from fastgen.common.checks import per_row
from fastgen.common.rounding import square_root
from fastgen.common.transforms import outside_transforms
from fastgen.noise.brownian_path import BrownianPath

# (W,), or with the space-time Levy area (W, H), over a part of a step.
Parts = tuple[Tensor, ...]


class Motion(Protocol):
    """A motion that is read step by step; a refused step is tried again on parts of it."""

    def begin(self, t: Tensor) -> None:
        """Stand at the times t [B]."""

    def parts(self, t: Tensor, middle: Tensor, end: Tensor) -> tuple[Parts, Parts, Parts]:
        """Over [t, middle], [middle, end] and [t, end]."""

    def move(self, taken: Tensor) -> None:
        """The samples in taken, bool [B], stand at the end that was asked for last."""


class PathMotion:
    """A `BrownianPath`, with times of each sample's own, and the area if it is asked for."""

    def __init__(self, path: BrownianPath, area: bool) -> None:
        self.path, self.area = path, area
        self.here: list[Tensor] = []
        self.there: list[Tensor] = []

    def _values(self, times: Tensor) -> list[Tensor]:
        return list(self.path.with_integral(times) if self.area else (self.path.at(times),))

    def begin(self, t: Tensor) -> None:
        """See `Motion`."""
        self.here = [x[0] for x in self._values(t[None])]

    def parts(self, t: Tensor, middle: Tensor, end: Tensor) -> tuple[Parts, Parts, Parts]:
        """See `Motion`."""
        found = self._values(torch.stack([middle, end]))
        inner, self.there = ([x[i] for x in found] for i in (0, 1))
        stands = (t, self.here), (middle, inner), (end, self.there)
        return tuple(  # type: ignore[return-value]
            self._part(*stands[i], *stands[j]) for i, j in ((0, 1), (1, 2), (0, 2))
        )

    def _part(self, t: Tensor, start: list[Tensor], u: Tensor, end: list[Tensor]) -> Parts:
        w = end[0] - start[0]
        if not self.area:
            return (w,)
        length = per_row(u - t, w)
        mean = (end[1] - start[1]) / torch.where(length == 0, 1.0, length)
        return w, torch.where(length == 0, 0.0, mean - (start[0] + end[0]) / 2)

    def move(self, taken: Tensor) -> None:
        """See `Motion`."""
        pairs = zip(self.here, self.there, strict=True)
        self.here = [torch.where(per_row(taken, a), b, a) for a, b in pairs]


class CalledMotion:
    """A function (s, t) -> W(t) - W(s) of numbers s < t, for steps that all samples share.

    read: (noise, s, t) -> the parts over [s, t]; join: of two neighbouring intervals of the lengths
    h and k those of their union.
    """

    def __init__(
        self,
        noise: Any,
        shape: torch.Size,
        read: Callable[[Any, float, float], Parts],
        join: Callable[[Parts, Parts, float, float], Parts],
    ) -> None:
        self.noise, self.shape, self.read, self.join = noise, shape, read, join

    def begin(self, t: Tensor) -> None:
        """Nothing is kept."""

    @outside_transforms
    def parts(self, t: Tensor, middle: Tensor, end: Tensor) -> tuple[Parts, Parts, Parts]:
        """See `Motion`; run backwards an increment changes its sign, and no area does."""
        s, m, e = (float(x[0]) for x in (t, middle, end))
        low, high = min(s, e), max(s, e)
        early, late = self._checked(low, m), self._checked(m, high)
        both = self.join(early, late, m - low, high - m)
        if e < s:
            early, late = late, early
            return tuple((-p[0], *p[1:]) for p in (early, late, both))  # type: ignore[return-value]
        return early, late, both

    def _checked(self, s: float, t: float) -> Parts:
        found = self.read(self.noise, s, t)
        for x in found[:1]:
            if not isinstance(x, Tensor) or x.shape != self.shape:
                got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
                raise ValueError(
                    f"noise: expected increments of shape {tuple(self.shape)} from noise(s, t), "
                    f"got {got}"
                )
        return tuple(x.detach() for x in found)

    def move(self, taken: Tensor) -> None:
        """Nothing is kept."""


def called(noise: Any, shape: torch.Size, area: bool) -> CalledMotion:
    """The motion of a function, with H by its method ``with_area`` if that is asked for.

    Over a union U = U_1 + U_2 + k W_1 with U = h (W / 2 + H), the integral of W_u - W_s.
    """

    def join(a: Parts, b: Parts, h: float, k: float) -> Parts:
        w = a[0] + b[0]
        if not area:
            return (w,)
        u = h * (a[0] / 2 + a[1]) + k * (b[0] / 2 + b[1]) + k * a[0]
        return w, u / (h + k) - w / 2

    def read(noise: Any, s: float, t: float) -> Parts:
        return tuple(noise.with_area(s, t)) if area else (noise(s, t),)

    return CalledMotion(noise, shape, read, join)


def unit_noises(parts: Parts, h: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """W / sqrt(h), and sqrt(12 / h) H, 0 over steps of no length."""
    root, found = square_root(h), []
    for factor, part in zip((1.0, math.sqrt(12)), parts, strict=False):
        wide = per_row(root, part)
        found.append(torch.where(wide == 0, 0.0, part * factor / wide).to(dtype))
    return found
