"""Paths along geodesics, and through the latent space of a user's encoder and decoder."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import fastgen.kernels as kernels
from fastgen.common.checks import check_positive, per_row
from fastgen.common.derivatives import directional, outside_inference_mode
from fastgen.kernels import Clock, Noise
from fastgen.training.paths.path import Path
from fastgen.training.paths.path_sample import PathSample


class _Deterministic(Path):
    """A path without noise on which x_t is not a x0 + b x1 with a and b of t alone."""

    def _batch(
        self,
        x0: Tensor | None,
        x1: Tensor,
        when: Tensor | Clock,
        noise: Noise,
        targets: tuple[str, ...],
        pairs: tuple[Tensor | None, Tensor | None],
    ) -> PathSample:
        assert x0 is not None
        for name in ("noise", "score"):
            if name in targets:
                raise ValueError(f"targets: {name!r}: there is no noise on {self!r}")
        source = x0 if pairs[0] is None else x0[pairs[0]]
        data = x1 if pairs[1] is None else x1[pairs[1]]
        t = kernels.times(noise, when) if isinstance(when, Clock) else when
        backwards = self.data_at == 0
        u = (1 - t if backwards else t).to(data.dtype)
        x_t, velocity = self.along(source, data, per_row(u, data))
        found = {"velocity": -velocity if backwards else velocity, "data": data, "source": source}
        shown = t.to(torch.float64 if data.dtype == torch.float64 else torch.float32)
        return PathSample(self, shown, x_t, {name: found[name] for name in targets})

    def along(self, x0: Tensor, x1: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Points and velocities at t [B, 1, ...], with x0 at 0 and x1 at 1."""
        raise NotImplementedError


# Nearer than so many roundings to opposite, the direction between two points is rounding's.
OPPOSITE = 64


def perpendicular(x: Tensor) -> Tensor:
    """A unit vector perpendicular to each x [..., D], D > 1: a fixed one.

    That of the axis which x has least of.
    """
    axis = x.detach().abs().argmin(-1, keepdim=True)
    unit = torch.zeros_like(x).scatter(-1, axis, 1.0)
    across = unit - (x * unit).sum(-1, keepdim=True) / (x * x).sum(-1, keepdim=True) * x
    result: Tensor = across / torch.linalg.vector_norm(across, dim=-1, keepdim=True)
    return result


class Sphere(_Deterministic):
    """Great circles: x_t = [sin((1 - t) w) x0 + sin(t w) x1] / sin w, w the angle between them.

    A sample [B, ...] is one vector, of the same length at both ends (which is kept). The velocity
    is tangent, of length w |x0|. Antipodal points have no one shortest path: there it is the great
    circle towards a fixed direction, that of the axis which x0 has least of. Chen and Lipman 2024
    (arXiv 2302.03660).
    """

    elementwise = False

    def along(self, x0: Tensor, x1: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The great circles."""
        a, b = x0.flatten(1), x1.flatten(1)
        if a.shape[1] < 2:
            raise ValueError(
                f"x0: expected samples of 2 or more elements, got {tuple(x0.shape)}: a sphere in "
                "one dimension is two points"
            )
        lengths = a.norm(dim=1), b.norm(dim=1)
        tolerance = 1e3 * torch.finfo(a.dtype).eps
        if a.device.type == "cpu" and not torch.allclose(*lengths, rtol=tolerance):
            worst = int((lengths[0] - lengths[1]).abs().argmax())
            raise ValueError(
                f"x0, x1: expected points on one sphere, but the vectors of row {worst} have "
                f"lengths {lengths[0][worst].item():.6g} and {lengths[1][worst].item():.6g}; "
                "normalise them"
            )
        # The half angle from chord and its complement loses no digits at either end.
        chord, rest = (a - b).norm(dim=1), (a + b).norm(dim=1)
        w = 2 * torch.atan2(chord, rest)
        w = w.reshape(t.shape)
        opposite = (rest <= OPPOSITE * torch.finfo(a.dtype).eps * chord).reshape(t.shape)
        opposite = opposite & (chord > 0).reshape(t.shape)
        near = w < 1e-4  # sin(k w) / sin w = k [1 + (1 - k^2) w^2 / 6 + ...]
        safe = torch.where(near | opposite, 1.0, w)
        sine = torch.sin(safe)
        here = torch.where(near, 1 - t, torch.sin((1 - t) * safe) / sine)
        there = torch.where(near, t, torch.sin(t * safe) / sine)
        slope = torch.where(near, -1.0, -safe * torch.cos((1 - t) * safe) / sine)
        rise = torch.where(near, 1.0, safe * torch.cos(t * safe) / sine)
        # From x0 through a fixed point across, half way round.
        across = (perpendicular(a) * lengths[0][:, None]).reshape(x0.shape)
        cosine, sine = torch.cos(math.pi * t), torch.sin(math.pi * t)
        round_, along = cosine * x0 + sine * across, math.pi * (cosine * across - sine * x0)
        return (
            torch.where(opposite, round_, here * x0 + there * x1),
            torch.where(opposite, along, slope * x0 + rise * x1),
        )


class FlatTorus(_Deterministic):
    """Straight lines the short way round: x_t = x0 + t d modulo the period, d in [-P/2, P/2).

    Points are in [0, period) in every coordinate. Chen and Lipman 2024 (arXiv 2302.03660).
    """

    def __init__(self, period: float = 2 * math.pi, *, data_at: int = 1) -> None:
        super().__init__(data_at)
        self.period = check_positive("period", period)

    def along(self, x0: Tensor, x1: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The straight lines."""
        half = self.period / 2
        d = torch.remainder(x1 - x0 + half, self.period) - half
        return torch.remainder(x0 + t * d, self.period), d


class Encoded(_Deterministic):
    """x_t = D((1 - t) E(x0) + t E(x1)), which keeps to the decoder's image.

    Velocity: the derivative of D along E(x1) - E(x0), by forward-mode differentiation. encode,
    decode: functions of batches [B, ...].
    """

    elementwise = False

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
        *,
        data_at: int = 1,
    ) -> None:
        super().__init__(data_at)
        self.encode, self.decode = encode, decode

    @outside_inference_mode
    def along(self, x0: Tensor, x1: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The image of a straight line."""
        z0, z1 = self.encode(x0), self.encode(x1)
        t = per_row(t, z0)
        return directional(self.decode, ((1 - t) * z0 + t * z1,), (z1 - z0,), "decode")
