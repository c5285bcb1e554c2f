"""Refusals shared by the time grids."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgen.common.checks import check_number


def positive(name: str, value: Any) -> float:
    """The value as a float; ValueError unless it is finite and above 0."""
    if not 0 < check_number(name, value) < math.inf:
        raise ValueError(f"{name} = {value!r} is out of range; give a positive number")
    return float(value)


def positive_integer(name: str, value: Any) -> int:
    """The value as an int; ValueError unless it is a whole number type of at least 1."""
    try:
        count = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = 0
    if count >= 2**31:
        raise ValueError(f"{name} = {value!r} is above 2^31 - 1; give less")
    if count < 1:
        raise ValueError(f"{name} = {value!r} is not a positive integer; give 1 or more")
    return count


def falling(times: NDArray[np.float64], what: str) -> None:
    """ValueError, naming the first offender, unless times fall strictly within [0, 1]."""
    bad = ~((times >= 0) & (times <= 1))
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(f"{what}: times[{i}] = {float(times[i])!r} is not within [0, 1]")
    flat = times[1:] >= times[:-1]
    if flat.any():
        i = int(np.argmax(flat))
        raise ValueError(
            f"{what}: times[{i}] = {float(times[i])!r} is followed by {float(times[i + 1])!r}; "
            "times must fall strictly, from noise (1) to data (0)"
        )
