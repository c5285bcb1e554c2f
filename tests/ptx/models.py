"""What instructions give, by their definition: exact numbers of Python, rounded once."""

import math
from fractions import Fraction

import mpmath

from tests.ptx.values import bits_of

# Bits of the mantissa with the leading one; exponents of the smallest number and of infinity.
FORMATS = {
    "f16": (11, -24, 16),
    "bf16": (8, -133, 128),
    "tf32": (11, -136, 128),
    "f32": (24, -149, 128),
    "f64": (53, -1074, 1024),
}


def wrap(x, kind):
    """An integer as a kind holds it."""
    n = bits_of(kind)
    x &= (1 << n) - 1
    return x - (1 << n) if kind[0] == "s" and x >> (n - 1) else x


def nearest(x, kind, away=False):
    """A fraction other than zero rounded to nearest, halves to even (or away from zero)."""
    digits, least, infinity = FORMATS[kind]
    size, sign = abs(x), -1 if x < 0 else 1
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    unit = Fraction(2) ** max(exponent - digits + 1, least)
    steps = size / unit
    whole = math.floor(steps + Fraction(1, 2)) if away else round(steps)
    result = whole * unit
    if result >= Fraction(2) ** infinity:
        return sign * math.inf
    return float(sign * result) if result else math.copysign(0.0, sign)


def finite(*x):
    return all(math.isfinite(a) for a in x)


def exactly(function, kind):
    """An operation on floats: exact and rounded once; where that cannot be, as Python has it."""

    def result(*x):
        if finite(*x):
            exact = function(*(Fraction(a) for a in x))
            if exact:
                return nearest(exact, kind)
        return function(*x)

    return result


def quotient(a, b):
    if isinstance(a, Fraction):
        return a / b if b else 0
    if b == 0:
        return (
            math.nan
            if a == 0 or math.isnan(a)
            else math.copysign(math.inf, a) * math.copysign(1, b)
        )
    return a / b


def truncated(a, b):
    """Integer division towards zero."""
    q = abs(a) // abs(b)
    return -q if (a < 0) != (b < 0) else q


def root(kind):
    def result(x):
        if not finite(x) or x <= 0:
            return x if x == 0 or x == math.inf else math.nan
        with mpmath.workprec(400):
            y = mpmath.sqrt(mpmath.mpf(x))
            return nearest(Fraction(y._mpf_[1]) * Fraction(2) ** y._mpf_[2], kind)

    return result


def whole(kind, away):
    """Float to integer: out of range the nearest, NaN zero."""
    n = bits_of(kind)
    low, high = (-(1 << (n - 1)), (1 << (n - 1)) - 1) if kind[0] == "s" else (0, (1 << n) - 1)

    def result(x):
        if math.isnan(x):
            return 0
        return low if x == -math.inf else high if x == math.inf else min(max(away(x), low), high)

    return result


def choose(pick):
    """The smaller or larger: NaN loses, and -0 is below 0."""

    def result(a, b):
        if math.isnan(a) or math.isnan(b):
            return b if math.isnan(a) else a
        return pick((a, b), key=lambda x: (x, math.copysign(1, x)))

    return result


def extract(kind):
    n = bits_of(kind)

    def result(a, position, count):
        bits = ((a & ((1 << n) - 1)) >> position) & ((1 << count) - 1)
        if kind[0] == "s" and count:
            # Beyond the number's end its sign is read.
            top = (a >> min(position + count - 1, n - 1)) & 1
            taken = min(count, n - position)
            if top:
                bits |= -(1 << taken)
        return bits

    return result


def permute(a, b, selector):
    eight = (a | b << 32).to_bytes(8, "little")
    result = 0
    for i in range(4):
        nibble = selector >> (4 * i) & 15
        byte = eight[nibble & 7]
        if nibble & 8:
            byte = 255 if byte & 128 else 0
        result |= byte << (8 * i)
    return result
