"""Brownian motions whose increment over the whole interval is given, and perhaps its area too."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen.noise.brownian_path import BrownianPath


@dataclass(frozen=True)
class Ends:
    """What is added to a motion B on [t0, t1] so that its increment is W, and its area H.

    B_t - s B_1, s = (t - t0) / (t1 - t0), is independent of B_1, and without its projection
    6 s (1 - s) H_B on the bridge's first polynomial also of H_B (Foster, Lyons and Oberhauser 2020,
    arXiv 1904.06998). So B_t + s (W - B_1) + 6 s (1 - s) (H - H_B) has the conditional law.

    line: W - B_1. arch: 6 (H - H_B), None where H is free.
    """

    t0: float
    length: float
    line: Tensor
    arch: Tensor | None

    @classmethod
    def of(cls, path: BrownianPath, size: torch.Size, w: Tensor, h: Tensor | None) -> Ends:
        """Those of a path that is to have these ends."""
        if h is None:
            whole = path(path.t0, path.t1)
            arch = None
        else:
            whole, area = path.with_area(path.t0, path.t1)
            arch = 6 * (h.detach() - area.reshape(size))
        line = w.detach() - whole.reshape(size)
        return cls(path.t0, path.t1 - path.t0, line, arch)

    def added(self, ta: float, tb: float) -> tuple[Tensor, Tensor]:
        """To the increment over [ta, tb], and to the integral of W_u - W_ta there."""
        s, t = (ta - self.t0) / self.length, (tb - self.t0) / self.length
        w, u = self.line * (t - s), self.line * ((t - s) ** 2 / 2)
        if self.arch is not None:
            w = w + self.arch * ((t - s) * (1 - s - t))
            over = (t**2 - s**2) / 2 - (t**3 - s**3) / 3 - (t - s) * (s - s**2)
            u = u + self.arch * over
        return w, u * self.length
