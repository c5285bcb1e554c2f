"""What a likelihood has at its two ends: dequantised data, and the density of noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastgen.kernels import Stream
from fastgen.noise.normals import randn

# The draw that dequantises; probes are the draws from 0 on.
DEQUANTISATION_DRAW = 1 << 31


def check_levels(levels: int) -> int:
    """The number of levels, or a ValueError that says how many there must be."""
    if levels < 2:
        raise ValueError(f"dequantise={levels!r}: expected at least 2 levels")
    return levels


def uniform(
    x: Tensor, seed: int | Sequence[int] | Tensor, sample_ids: Sequence[int] | Tensor | None
) -> Tensor:
    """Uniform numbers in [-1/2, 1/2] by the noise contract."""
    z = randn(
        x.shape,
        seed=seed,
        sample_ids=sample_ids,
        draw=DEQUANTISATION_DRAW,
        stream=Stream.PROBE,
        dtype=torch.float64,
        device=x.device,
    )
    found: Tensor = torch.special.ndtr(z) - 0.5
    return found.to(x.dtype)


def standard_normal(x: Tensor, deviation: float, dims: int | Tensor) -> Tensor:
    """log N(x; 0, deviation^2) of samples x [B, ...], in float64 [B].

    dims: of a sample, or of each [B], where the elements beside those are 0.
    """
    flat = x.flatten(1).double()
    constant = math.log(2 * math.pi) + 2 * math.log(deviation)
    return -0.5 * ((flat / deviation).square().sum(1) + dims * constant)
