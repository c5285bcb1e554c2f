"""The namespace in which built-in schedules compute one Python float, with numpy's own bits.

Python's arithmetic on floats is IEEE's, as numpy's, at a tenth of the cost of numpy's scalars;
the transcendental functions are numpy's ufuncs, whose results the C library's need not equal.
What leaves the domain raises ArithmeticError instead of giving a limit: `evaluate` then asks
numpy, which costs more and knows limits.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np

_EXP_MAX = 709.0  # beyond, exp overflows


def exp(x: float) -> float:
    """e^x."""
    if x <= _EXP_MAX:
        return float(np.exp(x))
    raise _beyond(x)


def expm1(x: float) -> float:
    """e^x - 1."""
    if x <= _EXP_MAX:
        return float(np.expm1(x))
    raise _beyond(x)


def log(x: float) -> float:
    """The natural logarithm."""
    if x > 0:
        return float(np.log(x))
    raise _beyond(x)


def log1p(x: float) -> float:
    """log(1 + x)."""
    if x > -1:
        return float(np.log1p(x))
    raise _beyond(x)


def sqrt(x: float) -> float:
    """The square root, exactly rounded."""
    if x >= 0:
        return math.sqrt(x)
    raise _beyond(x)


def sin(x: float) -> float:
    """The sine."""
    if math.isfinite(x):
        return float(np.sin(x))
    raise _beyond(x)


def cos(x: float) -> float:
    """The cosine."""
    if math.isfinite(x):
        return float(np.cos(x))
    raise _beyond(x)


def arctan(x: float) -> float:
    """The arc tangent."""
    return float(np.arctan(x))


def arctan2(y: float, x: float) -> float:
    """The angle of the point (x, y)."""
    return float(np.arctan2(y, x))


def arcsinh(x: float) -> float:
    """The inverse hyperbolic sine."""
    return float(np.arcsinh(x))


def hypot(x: float, y: float) -> float:
    """sqrt(x^2 + y^2)."""
    return float(np.hypot(x, y))


def where(condition: bool, yes: float, no: float) -> float:
    """One of two numbers, both of which have been computed."""
    return yes if condition else no


def clip(x: float, low: float | None, high: float | None) -> float:
    """The nearest number within bounds."""
    if low is not None and x < low:
        return low
    return high if high is not None and x > high else x


def absolute(x: float) -> float:
    """|x|."""
    return abs(x)


def round(x: float) -> float:
    """The nearest integer, the even one of two."""
    return float(np.rint(x))


def ceil(x: float) -> float:
    """The next integer upwards."""
    return float(math.ceil(x))


def searchsorted(values: Sequence[float], x: float) -> int:
    """How many of the sorted values are below x."""
    return bisect.bisect_left(values, x)


def ones_like(x: float) -> float:
    """1.0."""
    return 1.0


def zeros_like(x: float) -> float:
    """0.0."""
    return 0.0


def full_like(x: float, value: float) -> float:
    """The value."""
    return float(value)


def _beyond(x: float) -> ArithmeticError:
    return ArithmeticError(f"{x!r} is out of the domain")
