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

# Coefficients of the minimax approximations of FreeBSD's msun, e_log.c and e_exp.c.
_LOG = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
)
_EXP = (
    1.66666666666666019037e-01,
    -2.77777777770155933842e-03,
    6.61375632143793436117e-05,
    -1.65339022054652515390e-06,
    4.13813679705723846039e-08,
)
_LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_PER_LN2 = float.fromhex("0x1.71547652b82fep+0")
_ROOT_HALF = math.sqrt(0.5)


@outside_transforms
def power(x: Tensor, exponent: float) -> Tensor:
    """x^exponent of float64 [R] for finite x >= 0; NaN for NaN and infinity.

    exp(exponent log x), within about 2e-15 of the power relative to it where that is between 1e-300
    and 1e300. Of IEEE operations alone, in the order of csrc/common/power.h, which gives the same
    bits. Numbers below the normal ones count as 0.
    """
    normal = x >= torch.finfo(torch.float64).tiny
    # x = m 2^e with m in [sqrt(1/2), sqrt(2))
    m, e = torch.frexp(torch.where(normal & torch.isfinite(x), x, 1.0))
    below = m < _ROOT_HALF
    m, e = torch.where(below, 2 * m, m), e.double() - below.double()
    f = m - 1
    s = f / (m + 1)
    z = s * s
    w = z * z
    half = 0.5 * f * f
    even = w * (_LOG[1] + w * (_LOG[3] + w * _LOG[5]))
    odd = z * (_LOG[0] + w * (_LOG[2] + w * (_LOG[4] + w * _LOG[6])))
    rest = half - s * (half + (even + odd))
    log = e * _LN2_HIGH - ((rest - e * _LN2_LOW) - f)
    # exp(y) = 2^k exp(r), |r| <= log(2) / 2
    y = exponent * log
    k = torch.round(y * _PER_LN2)
    r = (y - k * _LN2_HIGH) - k * _LN2_LOW
    t = r * r
    c = r - t * (_EXP[0] + t * (_EXP[1] + t * (_EXP[2] + t * (_EXP[3] + t * _EXP[4]))))
    found = 1 + (r + r * c / (2 - c))
    scale = (k.clamp(-1022, 1023).long() + 1023 << 52).view(torch.float64)
    return torch.where(normal, found * scale, 0.0) + (x - x)


@outside_transforms
def square_root(x: Tensor) -> Tensor:
    """Correctly rounded: on CPUs torch's is off by an ulp where MKL computes it.

    With a gradient, and of a tensor that wraps others, it is torch's own.
    """
    if x.device.type == "cpu" and type(x) is Tensor and not x.requires_grad:
        return torch.from_numpy(np.asarray(np.sqrt(x.numpy())))
    return torch.sqrt(x)
