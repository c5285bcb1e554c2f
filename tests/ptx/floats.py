"""Instructions on floating-point numbers as functions of arrays, each rounded once.

Approximate instructions (`ex2.approx` and its like) give the correctly rounded result here and
something close to it on a device.
"""

import numpy as np

from tests.ptx.integers import COMPARED
from tests.ptx.values import DTYPES, flush

FLOATS = {}  # as `integers.INTEGERS`


def _add(name, kinds, function):
    FLOATS[name] = tuple(kinds), function


def _two_sum(a, b):
    """a + b rounded, and what the rounding left out."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _odd_sum(a, b):
    """a + b in float64, rounded to odd: rounding this once more is rounding the exact sum once."""
    s, rest = _two_sum(a, b)
    even = (s.view("i8") & 1) == 0
    away = (rest > 0) == (s > 0)
    step = np.where(away, 1, -1)
    inexact = np.isfinite(s) & (rest != 0) & even
    return np.where(inexact, s.view("i8") + step, s.view("i8")).view("f8")


def _halves(a):
    high = a * 134217729.0
    high = high - (high - a)
    return high, a - high


def fused(a, b, c):
    """a b + c rounded once (Boldo and Melquiond, 2008); float64 away from over- and underflow."""
    if a.dtype == np.float32:
        return _odd_sum(a.astype("f8") * b, c.astype("f8")).astype("f4")
    product = a * b
    (ah, al), (bh, bl) = _halves(a), _halves(b)
    rest = ((ah * bh - product) + ah * bl + al * bh) + al * bl
    u, v = _two_sum(c + 0 * product, rest)
    t, w = _two_sum(product, u)
    exact = t + _odd_sum(w, v)
    plain = product + c
    return np.where(np.isfinite(rest) & np.isfinite(exact), exact, plain)


def _flushed(function):
    return lambda *x: flush(function(*(flush(a) for a in x)))


def _least(a, b):
    """The smaller; of a number and NaN the number; -0 is smaller than 0."""
    both = (unsigned_of(a) | unsigned_of(b)).view(a.dtype)
    return np.where(a == b, both, np.fmin(a, b))


def _greatest(a, b):
    both = (unsigned_of(a) & unsigned_of(b)).view(a.dtype)
    return np.where(a == b, both, np.fmax(a, b))


def unsigned_of(a):
    return a.view(f"u{a.dtype.itemsize}")


def _nan(a, b):
    return np.isnan(a) | np.isnan(b)


def _propagating(choose):
    return lambda a, b: np.where(_nan(a, b), a.dtype.type("nan"), choose(a, b))


def widened(a):
    """bfloat16 numbers, given as bits, as float32."""
    return (a.astype("u4") << np.uint32(16)).view("f4")


def _without_arithmetic(kind, form):
    """Comparisons, signs and choices of a kind; `form` makes such a function one of its values."""
    two = kind, kind
    for relation, compare in COMPARED.items():
        ordered = compare
        if relation == "ne":
            ordered = lambda a, b: (a != b) & ~_nan(a, b)  # noqa: E731
        _add(f"setp.{relation}.{kind}", two, form(ordered))
        unordered = lambda a, b, compare=compare: compare(a, b) | _nan(a, b)  # noqa: E731
        _add(f"setp.{relation}u.{kind}", two, form(unordered))
    _add(f"setp.num.{kind}", two, form(lambda a, b: ~_nan(a, b)))
    _add(f"setp.nan.{kind}", two, form(_nan))
    _add(f"neg.{kind}", (kind,), form(np.negative))
    _add(f"abs.{kind}", (kind,), form(np.abs))
    for name, choose in (("min", _least), ("max", _greatest)):
        _add(f"{name}.{kind}", two, form(choose))
        if kind != "f64":
            _add(f"{name}.NaN.{kind}", two, form(_propagating(choose)))


def _on_bfloat16(function):
    """Exact functions: what they give of bfloat16 numbers is one, or a predicate."""

    def result(*values):
        found = function(*(widened(a) for a in values))
        return found if found.dtype == bool else to_bfloat16(found)

    return result


for kind in ("f32", "f64"):
    two = kind, kind
    _add(f"add.rn.{kind}", two, np.add)
    _add(f"sub.rn.{kind}", two, np.subtract)
    _add(f"mul.rn.{kind}", two, np.multiply)
    _add(f"div.rn.{kind}", two, np.divide)
    _add(f"sqrt.rn.{kind}", (kind,), np.sqrt)
    _add(f"rcp.rn.{kind}", (kind,), lambda a: a.dtype.type(1) / a)
    _add(f"fma.rn.{kind}", (kind,) * 3, fused)
for kind in ("f16", "f32", "f64"):
    _without_arithmetic(kind, lambda function: function)
_without_arithmetic("bf16", _on_bfloat16)
_add("abs.ftz.f32", ("f32",), _flushed(np.abs))
_add("fma.rn.ftz.f32", ("f32",) * 3, _flushed(fused))
_add("div.full.f32", ("f32", "f32"), np.divide)
_add("ex2.approx.ftz.f32", ("f32",), _flushed(lambda a: np.exp2(a.astype("f8")).astype("f4")))
_add("ex2.approx.f32", ("f32",), lambda a: np.exp2(a.astype("f8")).astype("f4"))
_add("lg2.approx.f32", ("f32",), lambda a: np.log2(a.astype("f8")).astype("f4"))


def _reciprocal_start(a):
    """Upper half of 1 / a, from which Newton steps go on."""
    bits = flush(1 / flush(a)).view("u8")
    return (bits & np.uint64(0xFFFFFFFF00000000)).view("f8")


_add("rcp.approx.ftz.f64", ("f64",), _reciprocal_start)


def to_bfloat16(a):
    """Bits of float32 numbers rounded to bfloat16, to nearest even."""
    b = a.view("u4").astype("u8")
    rounded = (b + 0x7FFF + ((b >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(a), 0x7FFF, rounded).astype("u2")


def to_half(a):
    """Bits of float32 numbers rounded to float16."""
    return np.where(np.isnan(a), 0x7FFF, a.astype("f2").view("u2")).astype("u2")


def to_tf32(a):
    """Rounded to 10 bits after the point, halves away from zero."""
    cut = (a.view("u4") + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(a), cut, a.view("u4"))


def _pair(half):
    return lambda high, low: (half(high).astype("u4") << np.uint32(16)) | half(low)


def _whole(to, away):
    """Float to integer: away rounds, out of range gives the nearest, NaN gives 0."""
    limits = np.iinfo(DTYPES[to])

    def function(a):
        r = away(np.where(np.isnan(a), 0, a).astype("f8"))
        low, high = r <= float(limits.min), r >= float(limits.max)
        inside = np.where(low | high, 0, r).astype(DTYPES[to])
        ends = np.where(low, limits.min, limits.max).astype(DTYPES[to])
        return np.where(low | high, ends, inside)

    return function


def _as(dtype):
    return lambda a: a.astype(dtype)


_add("cvt.f32.bf16", ("bf16",), widened)
_add("cvt.f64.bf16", ("bf16",), lambda a: widened(a).astype("f8"))
_add("cvt.f32.f16", ("f16",), _as("f4"))
_add("cvt.f64.f16", ("f16",), _as("f8"))
_add("cvt.f64.f32", ("f32",), _as("f8"))
_add("cvt.rn.f32.f64", ("f64",), _as("f4"))
_add("cvt.rn.bf16.f32", ("f32",), to_bfloat16)
_add("cvt.rn.f16.f32", ("f32",), to_half)
_add("cvt.rn.bf16x2.f32", ("f32", "f32"), _pair(to_bfloat16))
_add("cvt.rn.f16x2.f32", ("f32", "f32"), _pair(to_half))
_add("cvt.rna.tf32.f32", ("f32",), to_tf32)
for real in ("f32", "f64"):
    for integer in ("s32", "u32", "s64", "u64"):
        _add(f"cvt.rn.{real}.{integer}", (integer,), _as(DTYPES[real]))
        _add(f"cvt.rzi.{integer}.{real}", (real,), _whole(integer, np.trunc))
        _add(f"cvt.rni.{integer}.{real}", (real,), _whole(integer, np.rint))
