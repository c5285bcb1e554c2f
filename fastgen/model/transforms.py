"""Transforms of the data prediction: what is not linear, between network and stage."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

from torch import Tensor

from fastgen.common.checks import check_number
from fastgen.common.quantiles import quantile

# Data prediction [B, ...], time, and where it takes three arguments the state [B, ...], to data
# prediction.
Transform = Callable[[Tensor, float], Tensor] | Callable[[Tensor, float, Tensor], Tensor]


def sees_state(transform: Transform) -> bool:
    """Whether a transform is called as transform(data, t, x): it has three arguments to fill."""
    try:
        parameters = inspect.signature(transform).parameters.values()
    except (TypeError, ValueError):  # of C, without a signature
        return False
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return sum(p.default is p.empty for p in places) == 3


def dynamic_threshold(percentile: float = 0.995, least: float = 1.0) -> Transform:
    """A transform that clips every sample's data prediction to its own range and divides by it.

    s = max(percentile of |x_0|, least); x_0 <- clip(x_0, -s, s) least / s (Saharia et al. 2022,
    arXiv 2205.11487, section 2.3, with data in [-least, least]).
    """
    if not 0 < check_number("percentile", percentile) <= 1:
        raise ValueError(f"percentile={percentile!r}: expected a number in (0, 1]")
    if not 0 < check_number("least", least) < math.inf:
        raise ValueError(f"least={least!r}: expected a positive number")

    def transform(data: Tensor, t: float) -> Tensor:
        if not data.numel():
            return data.clone()
        flat = data.reshape(len(data), -1).abs()
        s = quantile(flat, percentile).clamp(min=least)
        s = s.reshape(-1, *[1] * (data.ndim - 1))
        return data.clamp(-s, s) * (least / s)

    return transform
