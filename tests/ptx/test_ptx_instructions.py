"""Each instruction that computes against its definition, in a kernel of its own.

Those with memory and warps: `test_ptx_memory.py`.
"""

import math
import random
import struct
from fractions import Fraction

import numpy as np
import pytest

from tests.ptx import floats, models
from tests.ptx.floats import FLOATS
from tests.ptx.instructions import PACKED
from tests.ptx.integers import INTEGERS
from tests.ptx.kernels import run
from tests.ptx.values import DTYPES, bits_of, unsigned

LANES = 64
RELATIONS = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
SPECIAL = [
    0.0,
    -0.0,
    math.inf,
    -math.inf,
    math.nan,
    1.0,
    -1.0,
    0.5,
    1.5,
    2.5,
    1e-40,
    -3e38,
    65519.9,
]
REGISTERS = {1: "%p", 8: "%rs", 16: "%rs", 32: "%r", 64: "%rd"}


def values(kind, chance):
    """`LANES` numbers of a kind: its ends, special ones, random ones of every size."""
    if kind == "pred":
        return [chance.random() < 0.5 for _ in range(LANES)]
    if kind[0] in "usb" and kind != "bf16":
        n = bits_of(kind)
        found = [0, 1, -1, 1 << (n - 1), (1 << (n - 1)) - 1, 3, -7]
        found += [chance.getrandbits(chance.randint(1, n)) for _ in range(LANES - len(found))]
        chance.shuffle(found)
        return [models.wrap(x, kind) for x in found]
    dtype = {"f16": "f2", "f64": "f8"}.get(kind, "f4")
    size = 10 if kind == "f16" else 30
    found = SPECIAL + [
        chance.gauss(0, 1) * 2.0 ** chance.randint(-size, size) for _ in range(LANES - len(SPECIAL))
    ]
    chance.shuffle(found)
    with np.errstate(over="ignore"):
        found = np.array(found).astype(dtype)
    if kind == "bf16":
        found = (found.view("u4") & np.uint32(0xFFFF0000)).view("f4")
    return [float(x) for x in found]


def packed(numbers, kind):
    """Numbers as the bits of a kind."""
    if kind == "bf16":
        return (np.array(numbers, "f4").view("u4") >> np.uint32(16)).astype("u2")
    if kind == "pred":
        return np.array(numbers, "u1")
    return np.array(numbers, DTYPES[kind])


def f32(function):
    return models.exactly(function, "f32")


def flushed(function):
    def small(x):
        return math.copysign(0.0, x) if abs(x) < 2.0**-126 else x

    return lambda *x: small(function(*(small(a) for a in x)))


def power_of_two(x):
    with np.errstate(over="ignore"):
        return float(np.float32(np.exp2(x)))


def half_bits(x, kind):
    """Bits of a float32 rounded to 16."""
    if math.isnan(x):
        return 0x7FFF
    rounded = models.nearest(Fraction(x), kind) if models.finite(x) and x else x
    if kind == "f16":
        return struct.unpack("<H", struct.pack("<e", rounded))[0]
    return struct.unpack("<I", struct.pack("<f", rounded))[0] >> 16


def tf32_bits(x):
    if models.finite(x) and x:
        x = models.nearest(Fraction(x), "tf32", away=True)
    return struct.unpack("<I", struct.pack("<f", x))[0]


def model(name):
    """(kind of the result, function of Python numbers) for an instruction without memory."""
    first, *middle, kind = name.split(".")
    real = kind in ("f16", "bf16", "f32", "f64")
    if first == "setp":
        relation = middle[0]
        if relation in ("num", "nan"):
            return "pred", lambda a, b: (relation == "nan") == (math.isnan(a) or math.isnan(b))
        ordered = RELATIONS[relation[:2]]
        if not real:
            return "pred", ordered
        unordered = relation.endswith("u")
        return "pred", lambda a, b: unordered if math.isnan(a) or math.isnan(b) else ordered(a, b)
    if first == "selp":
        return kind, lambda a, b, p: a if p else b
    if first == "cvt":
        return conversion(middle, kind)
    if first in ("popc", "prmt"):
        return "u32", {"popc": lambda a: a.bit_count(), "prmt": models.permute}[first]
    if first == "bfe":
        return kind, models.extract(kind)
    if first in ("shl", "shr"):
        return kind, lambda a, n: a << n if first == "shl" else a >> n
    if kind == "pred":
        return kind, {
            "and": lambda a, b: a and b,
            "or": lambda a, b: a or b,
            "xor": lambda a, b: a != b,
            "not": lambda a: not a,
        }[first]
    if real:
        return kind, real_model(first, middle, kind)
    wide = f"{kind[0]}64" if "wide" in middle else kind
    high = 32 if "hi" in middle else 0
    return wide, {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b >> high,
        "mad": lambda a, b, c: a * b + c,
        "div": models.truncated,
        "rem": lambda a, b: a - b * models.truncated(a, b),
        "min": min,
        "max": max,
        "neg": lambda a: -a,
        "abs": abs,
        "and": lambda a, b: a & b,
        "or": lambda a, b: a | b,
        "xor": lambda a, b: a ^ b,
        "not": lambda a: ~a,
    }[first]


def real_model(first, middle, kind):
    exact = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "fma": lambda a, b, c: a * b + c,
        "div": models.quotient,
        "rcp": lambda a: models.quotient(a * 0 + 1, a) if a == a and abs(a) != math.inf else 1 / a,
    }
    other = {
        "sqrt": models.root(kind),
        "neg": lambda a: -a,
        "abs": abs,
        "min": models.choose(min),
        "max": models.choose(max),
        "ex2": power_of_two,
        "lg2": lambda a: math.nan if a < 0 or a != a else math.log2(a) if a else -math.inf,
    }
    function = models.exactly(exact[first], kind) if first in exact else other[first]
    if "NaN" in middle:
        pick = function
        function = lambda a, b: pick(a, b) if a == a and b == b else math.nan  # noqa: E731
    return flushed(function) if "ftz" in middle and kind == "f32" else function


def conversion(middle, source):
    target = middle[-1]
    if target.endswith("x2"):
        kind = target[:-2]
        return "b32", lambda a, b: half_bits(a, kind) << 16 | half_bits(b, kind)
    if target == "tf32":
        return "b32", tf32_bits
    if target in ("bf16", "f16"):
        return "u16", lambda a: half_bits(a, target)
    if target[0] == "f" and source[0] in "us":
        return target, lambda a: models.nearest(Fraction(a), target) if a else 0.0
    if target[0] == "f":
        return (
            target,
            lambda a: models.nearest(Fraction(a), target) if models.finite(a) and a else a,
        )
    if source[0] == "f":
        return target, models.whole(target, math.trunc if "rzi" in middle else round)
    return target, lambda a: a


def equal(found, wanted, kind):
    """Bits of a result against a model's number; any NaN is as good as another."""
    if kind == "pred":
        return bool(found) == bool(wanted)
    if kind == "bf16":  # the upper half of a float32
        found, wanted = floats.widened(found), np.array(wanted, "f4")
        kind = "f32"
    number = found.view(DTYPES[kind])
    if kind[0] == "f":
        wanted = np.array(wanted, DTYPES[kind])
        return bool(np.isnan(number) and np.isnan(wanted)) or bool(
            number.view(f"u{number.dtype.itemsize}") == wanted.view(f"u{number.dtype.itemsize}")
        )
    return int(number) == models.wrap(int(wanted), kind)


@pytest.mark.parametrize("name", sorted(INTEGERS | FLOATS))
def test_gives_what_its_definition_says(name):
    kinds, _ = (INTEGERS | FLOATS)[name]
    chance = random.Random(name)
    inputs = [values(kind, chance) for kind in kinds]
    if name[:2] in ("sh", "bf"):
        width = bits_of(kinds[0])
        inputs[1] = [chance.randint(0, width + (name[0] == "s") - 1) for _ in range(LANES)]
        if name[0] == "b":
            inputs[2] = [chance.randint(0, width) for _ in range(LANES)]
    if name[:3] in ("div", "rem") and kinds[0][0] != "f":
        low = models.wrap(1 << (bits_of(kinds[0]) - 1), kinds[0])
        inputs[1] = [
            b if b and not (b == -1 and a == low) else 3 for a, b in zip(*inputs, strict=True)
        ]
    result, definition = model(name)
    found = run_one(name, inputs, kinds, result)
    for lane, arguments in enumerate(zip(*inputs, strict=True)):
        wanted = definition(*arguments)
        if name.startswith("rcp.approx"):  # half of the digits; the other bits are zeros
            got = found[lane].view("f8")
            assert got == wanted or math.isnan(wanted) or abs(got / wanted - 1) < 2.0**-19
        else:
            assert equal(found[lane], wanted, result), (arguments, wanted, found[lane])


def run_one(name, inputs, kinds, result):
    """The bits that an instruction gives for each lane."""
    code, operands = ["mov.u32 %r1, %tid.x;", "mul.wide.u32 %rd1, %r1, 8;"], []
    memory = []
    for i, (numbers, kind) in enumerate(zip(inputs, kinds, strict=True)):
        words = np.zeros(LANES, "u8")
        bits = packed(numbers, kind)
        words.view(bits.dtype)[:: 8 // bits.dtype.itemsize] = bits
        memory.append(words)
        width = bits_of(kind)
        loaded = f"{REGISTERS[width]}{i + 10}"
        code += [f"ld.param.b64 %rd2, [p{i}];", "add.s64 %rd3, %rd2, %rd1;"]
        if kind == "pred":
            code += ["ld.global.b32 %r2, [%rd3];", f"setp.ne.b32 {loaded}, %r2, 0;"]
        else:
            code += [f"ld.global.b{width} {loaded}, [%rd3];"]
        operands.append(loaded)
    target = f"{REGISTERS[bits_of(result)]}20"
    code.append(f"{name} {target}, {', '.join(operands)};")
    out = np.zeros(LANES, "u8")
    code += [f"ld.param.b64 %rd2, [p{len(inputs)}];", "add.s64 %rd3, %rd2, %rd1;"]
    if result == "pred":
        code += [f"selp.b32 %r3, 1, 0, {target};", "st.global.b32 [%rd3], %r3;"]
    else:
        code += [f"st.global.b{bits_of(result)} [%rd3], {target};"]
    run(code, [*memory, out], threads=LANES)
    size = max(bits_of(result), 8) // 8
    return out.view(f"u{size}")[:: 8 // size]


@pytest.mark.parametrize("name", sorted(PACKED))
def test_packed_instructions_are_two(name):
    """Each on both halves of 32 bits, the lower first."""
    whole = name[:-2]
    kinds, _ = FLOATS[whole]
    chance = random.Random(name)
    halves = [[values(kind, chance) for kind in kinds] for _ in range(2)]
    code, count = ["mov.u32 %r1, %tid.x;", "mul.wide.u32 %rd1, %r1, 4;"], len(kinds)
    memory = []
    for i, kind in enumerate(kinds):
        low, high = (unsigned(packed(half[i], kind)).astype("u4") for half in halves)
        memory.append(low | high << np.uint32(16))
        code += [f"ld.param.b64 %rd2, [p{i}];", "add.s64 %rd3, %rd2, %rd1;"]
        code += [f"ld.global.b32 %r{i + 10}, [%rd3];"]
    result, definition = model(whole)
    target = "%p1|%p2" if result == "pred" else "%r20"
    code.append(f"{name} {target}, {', '.join(f'%r{i + 10}' for i in range(count))};")
    if result == "pred":
        code += ["selp.b32 %r3, 1, 0, %p1;", "selp.b32 %r4, 65536, 0, %p2;"]
        code += ["or.b32 %r20, %r3, %r4;"]
    code += [f"ld.param.b64 %rd2, [p{count}];", "add.s64 %rd3, %rd2, %rd1;"]
    out = np.zeros(LANES, "u4")
    run([*code, "st.global.b32 [%rd3], %r20;"], [*memory, out], threads=LANES)
    for half, found in zip(
        halves, (out.astype("u2"), (out >> np.uint32(16)).astype("u2")), strict=True
    ):
        for lane, arguments in enumerate(zip(*half, strict=True)):
            wanted = definition(*arguments)
            assert equal(found[lane : lane + 1][0], wanted, result), (arguments, wanted)
