"""Kinds of values: "s32" and its like as NumPy's dtypes."""

import numpy as np

DTYPES = {
    f"{letter}{bits}": np.dtype(f"{code}{bits // 8}")
    for letter, code in (("u", "u"), ("b", "u"), ("s", "i"))
    for bits in (8, 16, 32, 64)
}
DTYPES |= {"f16": np.dtype("f2"), "f32": np.dtype("f4"), "f64": np.dtype("f8")}
DTYPES |= {"bf16": np.dtype("u2"), "pred": np.dtype(bool)}


def bits_of(kind):
    """Bits of a kind; of predicates 1."""
    return 1 if kind == "pred" else DTYPES[kind].itemsize * 8


def unsigned(values):
    """The same bits as unsigned integers (predicates as they are)."""
    return values if values.dtype == bool else values.view(f"u{values.dtype.itemsize}")


def flush(values):
    """Subnormal numbers as zeros of their sign."""
    small = np.abs(values) < np.finfo(values.dtype).tiny
    return np.where(small, np.copysign(values.dtype.type(0), values), values)
