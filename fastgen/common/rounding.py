"""Functions of single numbers whose last bit does not depend on where in a tensor a number stands.

Vector code rounds some functions otherwise than the scalar code for what is left over at the end
of a vector. A sample's value would depend on its place in the batch.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fastgen.common.transforms import outside_transforms


@outside_transforms
def power(x: Tensor, exponent: float) -> Tensor:
    """x^exponent of float64 [R], each number by itself; NaN where x is NaN."""
    found = [math.nan if math.isnan(v) else math.pow(v, exponent) for v in x.tolist()]
    return torch.tensor(found, dtype=torch.float64, device=x.device)


@outside_transforms
def square_root(x: Tensor) -> Tensor:
    """Correctly rounded: on CPUs torch's is off by an ulp where MKL computes it."""
    if x.device.type == "cpu":
        return torch.from_numpy(np.asarray(np.sqrt(x.numpy())))
    return torch.sqrt(x)
