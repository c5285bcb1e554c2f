"""Samples that are drawn anew among themselves by their weights."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.kernels import Stream
from fastgen.noise.normals import normals


def effective(log_weights: Tensor) -> Tensor:
    """The effective number of samples, (sum w)^2 / sum w^2, [...] of [..., P]."""
    return 1 / log_weights.double().softmax(-1).square().sum(-1)


def uniform(seeds: Tensor, ids: Tensor, draw: int) -> Tensor:
    """A uniform number in (0, 1) for each system, float64 [B], by the noise contract."""
    z = normals((len(ids), 1), seeds, ids, draw, Stream.RESAMPLING, torch.float64)
    u: Tensor = torch.special.ndtr(z[:, 0])
    return u


def systematic(log_weights: Tensor, u: Tensor) -> Tensor:
    """Which samples go on, [B, P]: places u, u + 1, ... of the running sum of P weights.

    Sample i is taken P w_i times on average, and never less often than its whole part.
    """
    count = log_weights.shape[-1]
    bounds = log_weights.double().softmax(-1).cumsum(-1)
    places = (torch.arange(count, device=u.device) + u[:, None]) / count * bounds[:, -1:]
    return torch.searchsorted(bounds, places).clamp_max(count - 1)
