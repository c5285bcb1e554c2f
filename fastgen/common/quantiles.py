"""Quantiles of long rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def quantile(values: Tensor, fraction: float) -> Tensor:
    """The quantile of each row [B], between neighbours linearly, as torch.quantile's.

    torch.quantile sorts whole rows, of 2^24 numbers at most, and until torch 2.10 it waited for
    the device.
    """
    if values.dtype not in (torch.float32, torch.float64):
        return quantile(values.float(), fraction).to(values.dtype)
    last = values.shape[1] - 1
    number = np.float32 if values.dtype == torch.float32 else np.float64
    place = float(number(fraction) * number(last))
    low = min(int(place), last)
    largest = values.topk(last + 1 - low, dim=1).values
    return largest[:, -1].lerp(largest[:, max(last - low - 1, 0)], place - low)
