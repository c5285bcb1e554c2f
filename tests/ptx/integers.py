"""Instructions on integers and predicates as functions of arrays."""

import numpy as np

from tests.ptx.values import DTYPES, bits_of

# {name: (kinds of the sources, function)}. The result's dtype is what the function returns.
INTEGERS = {}


def _add(name, kinds, function):
    INTEGERS[name] = tuple(kinds), function


def _shift_left(a, n):
    width = a.dtype.itemsize * 8
    return np.where(n >= width, a.dtype.type(0), a << np.minimum(n, width - 1).astype(a.dtype))


def _shift_right(a, n):
    width = a.dtype.itemsize * 8
    shifted = a >> np.minimum(n, width - 1).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(n >= width, a.dtype.type(0), shifted)


def _high(a, b):
    """Upper half of the product of 32-bit integers."""
    wide = np.dtype(f"{a.dtype.kind}8")
    return ((a.astype(wide) * b.astype(wide)) >> wide.type(32)).astype(a.dtype)


def _wide(a, b):
    wide = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
    return a.astype(wide) * b.astype(wide)


def _quotient(a, b):
    """Towards zero; what division by zero gives is not defined, here all bits are set."""
    zero = b == 0
    b = np.where(zero, b.dtype.type(1), b)
    q = (a - np.fmod(a, b)) // b
    return np.where(zero, a.dtype.type(-1) if a.dtype.kind == "i" else ~a.dtype.type(0), q)


def _remainder(a, b):
    zero = b == 0
    return np.where(zero, a, np.fmod(a, np.where(zero, b.dtype.type(1), b)))


def _extract(a, position, count):
    """`count` bits from `position` on; signed kinds repeat the last of them."""
    width = a.dtype.itemsize * 8
    top = np.minimum(position + count, width)
    left = (width - top).astype(a.dtype)
    right = (width - top + position).astype(a.dtype)
    return np.where(count == 0, a.dtype.type(0), _shift_right(a << left, right))


def _permute(a, b, selector):
    """Four bytes out of eight; bit 3 of a nibble repeats the byte's sign."""
    both = a.astype("u8") | (b.astype("u8") << np.uint64(32))
    result = np.zeros(np.broadcast(both, selector).shape, "u4")
    for i in range(4):
        nibble = (selector >> np.uint32(4 * i)) & np.uint32(15)
        byte = (both >> (8 * (nibble & np.uint32(7))).astype("u8")).astype("u4") & np.uint32(255)
        sign = np.where(byte >= 128, np.uint32(255), np.uint32(0))
        result |= np.where(nibble >= 8, sign, byte) << np.uint32(8 * i)
    return result


def _select(a, b, chosen):
    return np.where(chosen, a, b)


for kind in ("s16", "s32", "s64", "u16", "u32", "u64"):
    two = kind, kind
    _add(f"add.{kind}", two, np.add)
    _add(f"sub.{kind}", two, np.subtract)
    _add(f"mul.lo.{kind}", two, np.multiply)
    _add(f"mad.lo.{kind}", (kind,) * 3, lambda a, b, c: a * b + c)
    _add(f"div.{kind}", two, _quotient)
    _add(f"rem.{kind}", two, _remainder)
    _add(f"min.{kind}", two, np.minimum)
    _add(f"max.{kind}", two, np.maximum)
    _add(f"shr.{kind}", (kind, "u32"), _shift_right)
    if kind[0] == "s":
        _add(f"neg.{kind}", (kind,), np.negative)
        _add(f"abs.{kind}", (kind,), np.abs)
    if kind[1:] == "32":
        wide = f"{kind[0]}64"
        _add(f"mul.wide.{kind}", two, _wide)
        _add(f"mul.hi.{kind}", two, _high)
        _add(f"mad.wide.{kind}", (*two, wide), lambda a, b, c: _wide(a, b) + c)
    if kind[1:] != "16":
        _add(f"bfe.{kind}", (kind, "u32", "u32"), _extract)

for kind in ("b16", "b32", "b64", "pred"):
    _add(f"and.{kind}", (kind, kind), np.bitwise_and)
    _add(f"or.{kind}", (kind, kind), np.bitwise_or)
    _add(f"xor.{kind}", (kind, kind), np.bitwise_xor)
    _add(f"not.{kind}", (kind,), np.invert)
    if kind != "pred":
        _add(f"shl.{kind}", (kind, "u32"), _shift_left)
for kind in ("b32", "b64"):
    _add(f"popc.{kind}", (kind,), lambda a: np.bitwise_count(a).astype("u4"))
_add("prmt.b32", ("b32", "b32", "b32"), _permute)

for kind in ("b16", "b32", "b64", "f32", "f64", "u32", "s32", "u64", "s64"):
    _add(f"selp.{kind}", (kind, kind, "pred"), _select)

COMPARED = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
for kind in ("b16", "b32", "b64", "s16", "s32", "s64", "u16", "u32", "u64"):
    for relation, function in COMPARED.items():
        if kind[0] != "b" or relation in ("eq", "ne"):
            _add(f"setp.{relation}.{kind}", (kind, kind), function)


def convert(to, source):
    """`cvt.to.source` on integers: cut off, or extended by the source's sign."""
    return (source,), lambda a: a.astype(DTYPES[to])


WHOLE = [k for k in DTYPES if k[0] in "us"]
for to in WHOLE:
    for source in WHOLE:
        if bits_of(to) != bits_of(source):
            INTEGERS[f"cvt.{to}.{source}"] = convert(to, source)
