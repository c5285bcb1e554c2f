"""Instructions of the emulator that move values, those of whole warps, and control flow."""

import numpy as np
import pytest

from tests.ptx.floats import FLOATS
from tests.ptx.instructions import INSTRUCTIONS, PACKED
from tests.ptx.integers import INTEGERS
from tests.ptx.kernels import run
from tests.ptx.machine import constant
from tests.ptx.movement import MOVEMENT
from tests.ptx.program import PtxError
from tests.ptx.values import DTYPES, bits_of
from tests.ptx.warps import WARPS

REGISTERS = {8: "%rs", 16: "%rs", 32: "%r", 64: "%rd"}
LANE = ["mov.u32 %r1, %tid.x;", "ld.param.b64 %rd1, [p0];", "ld.param.b64 %rd2, [p1];"]
ATOMICS = [n for n in MOVEMENT if n[:4] == "atom"]
COPIES = [n for n in MOVEMENT if n[:2] in ("ld", "st")]


def random_bytes(count):
    return np.random.default_rng(1).integers(0, 256, count).astype("u1")


def test_all_instructions_have_tests():
    tested = {
        *COPIES,
        *[n for n in MOVEMENT if n[:3] == "mov"],
        *[n for n in MOVEMENT if n[:2] == "cp"],
        *ATOMICS,
    }
    assert tested == set(MOVEMENT)
    assert set(INSTRUCTIONS) == {*MOVEMENT, *WARPS, *INTEGERS, *FLOATS, *PACKED}


@pytest.mark.parametrize("name", sorted(ATOMICS))
def test_atomic_sums(name):
    """Lanes of two blocks add to two places; together they see every sum on the way."""
    kind = name.split(".")[-1]
    dtype, register = DTYPES[kind], REGISTERS[bits_of(kind)]
    size = dtype.itemsize
    sums, seen = np.array([5, 7], dtype), np.zeros((2, 64), dtype)
    code = [
        *LANE,
        "and.b32 %r2, %r1, 1;",
        f"mul.wide.u32 %rd3, %r2, {size};",
        "add.s64 %rd4, %rd1, %rd3;",
        f"{name} {register}9, [%rd4], 3;",
        "mov.u32 %r3, %ctaid.x;",
        "shl.b32 %r3, %r3, 5;",
        "add.s32 %r3, %r3, %r1;",
        "mad.lo.s32 %r3, %r2, 64, %r3;",
        f"mul.wide.u32 %rd5, %r3, {size};",
        "add.s64 %rd5, %rd2, %rd5;",
        f"st.global.b{8 * size} [%rd5], {register}9;",
    ]
    run(code, [sums, seen], grid=(2, 1, 1))
    assert sums.tolist() == [5 + 3 * 32, 7 + 3 * 32]
    for first, part, row in zip((5, 7), (0, 1), seen, strict=True):
        assert sorted(row[part::2].tolist()) == [first + 3 * i for i in range(32)]


@pytest.mark.parametrize("name", sorted(COPIES))
def test_loads_and_stores(name):
    """A load and a store of the same kind, by way of shared memory for those that are of it."""
    _, space, *form, kind = name.split(".")
    if space == "param":
        argument(kind)
        return
    width = bits_of(kind)
    count = int(form[0][1:]) if form else 1
    size = width // 8 * count
    shape = f".v{count}" if count > 1 else ""
    names = [f"{REGISTERS[width]}{40 + k}" for k in range(count)]
    listed = "{" + ", ".join(names) + "}" if count > 1 else names[0]
    code = [*LANE, f"mul.lo.s32 %r2, %r1, {size};", f"mul.wide.u32 %rd3, %r1, {size};"]
    code += ["add.s64 %rd1, %rd1, %rd3;", "add.s64 %rd2, %rd2, %rd3;"]
    code += [f"ld.global{shape}.{kind} {listed}, [%rd1 + 0];"]
    if space == "shared":
        code += [f"st.shared{shape}.{kind} [%r2 + {size}], {listed};"]
        code += [f"ld.shared{shape}.{kind} {listed}, [%r2 + {size}];"]
    code += [f"st.global{shape}.{kind} [ %rd2 ], {listed};"]
    given = random_bytes(32 * size)
    got = np.zeros_like(given)
    run(code, [given, got], shared=33 * size)
    assert (given == got).all()


def argument(kind):
    """The low bits of an argument; signed ones extended by their sign."""
    width = bits_of(kind)
    code = ["ld.param.b64 %rd1, [p0];", f"ld.param.{kind} {REGISTERS[width]}4, [p1];"]
    code += [f"st.global.b{max(width, 16)} [%rd1], {REGISTERS[width]}4;"]
    given, got = np.array([2**63 + 2**31 + 2**15 + 2**7], "u8"), np.zeros(1, "u8")
    run(code, [got, given], threads=32)
    low = np.array([given.ctypes.data & (2**width - 1)], f"u{width // 8}")
    wanted = low.view(DTYPES[kind]).astype(f"{DTYPES[kind].kind}{max(width, 16) // 8}")
    assert got.view(f"u{max(width, 16) // 8}")[0] == wanted.view(f"u{wanted.itemsize}")[0]


@pytest.mark.parametrize("name", sorted(n for n in MOVEMENT if n.startswith("mov")))
def test_moves(name):
    kind = name.split(".")[1]
    got = np.zeros(32, "u8")
    code = [*LANE, "mul.wide.u32 %rd3, %r1, 8;", "add.s64 %rd1, %rd1, %rd3;"]
    if kind == "pred":
        code += ["setp.gt.s32 %p1, %r1, 5;", "mov.pred %p2, %p1;", "selp.b64 %rd4, 1, 0, %p2;"]
        wanted = np.arange(32) > 5
    elif kind[1:] == "16":
        code += ["cvt.u16.u32 %rs1, %r1;", f"{name} %rs2, %rs1;", "cvt.u64.u16 %rd4, %rs2;"]
        wanted = np.arange(32)
    elif kind[1:] == "32":
        code += ["cvt.u16.u32 %rs1, %r1;", "mov.b32 %r2, {%rs1, 7};", f"{name} %r3, %r2;"]
        code += ["mov.b32 {%rs3, %rs4}, %r3;", "mov.b64 %rd4, {%r3, %r1};"]
        code += ["mov.b32 %r5, {%rs4, %rs3};", "mov.b64 %rd4, {%r3, %r5};"]
        lane = np.arange(32, dtype="u8")
        wanted = lane | 7 << 16 | (7 | lane << np.uint64(16)) << np.uint64(32)
    else:
        code += ["mov.b64 %rd5, {%r1, 3};", f"{name} %rd6, %rd5;", "mov.b64 {%r7, %r8}, %rd6;"]
        code += ["mov.b64 %rd4, {%r8, %r7};"]
        wanted = np.arange(32, dtype="u8") << np.uint64(32) | np.uint64(3)
    run([*code, "st.global.b64 [%rd1], %rd4;"], [got, got])
    assert (got == wanted).all()


@pytest.mark.parametrize("name", sorted(n for n in MOVEMENT if "shared.global" in n))
@pytest.mark.parametrize("size", [4, 8, 16])
def test_asynchronous_copies(name, size):
    """Bytes beyond the given count are zeros, and are not read."""
    given, got = random_bytes(size * 31), np.full(size * 32, 7, "u1")
    code = [*LANE, f"mul.lo.s32 %r2, %r1, {size};", f"mul.wide.u32 %rd3, %r1, {size};"]
    code += ["add.s64 %rd1, %rd1, %rd3;", "add.s64 %rd2, %rd2, %rd3;"]
    code += ["setp.eq.s32 %p1, %r1, 31;", f"selp.b32 %r3, 0, {size}, %p1;"]
    code += [f"{name} [ %r2 + 0 ], [ %rd1 + 0 ], 0x{size:x}, %r3;", "cp.async.commit_group;"]
    code += ["cp.async.wait_group 0;", "bar.sync 0;"]
    for at in range(0, size, 4):
        code += [f"ld.shared.b32 %r4, [%r2 + {at}];", f"st.global.b32 [%rd2 + {at}], %r4;"]
    run(code, [given, got], shared=32 * size)
    assert (got[:-size] == given).all()
    assert (got[-size:] == 0).all()


@pytest.mark.parametrize("kind", ["bfly", "down", "idx", "up"])
@pytest.mark.parametrize(("by", "clamp"), [(3, 31), (1, 31), (8, 31), (5, 0), (2, 0x181F)])
def test_shuffles(kind, by, clamp):
    """As the manual writes them: lanes that would leave their segment keep their own value."""
    got = np.zeros(64, "u4")
    code = [*LANE, "mul.wide.u32 %rd3, %r1, 4;", "add.s64 %rd1, %rd1, %rd3;"]
    code += [f"shfl.sync.{kind}.b32 %r2, %r1, {by}, {clamp}, -1;", "st.global.b32 [%rd1], %r2;"]
    run(code, [got, got], threads=64)
    c, mask = clamp & 31, clamp >> 8
    for thread in range(64):
        lane = thread % 32
        most = (lane & mask) | (c & ~mask & 31)
        j = {
            "up": lane - by,
            "down": lane + by,
            "bfly": lane ^ by,
            "idx": (lane & mask) | (by & ~mask & 31),
        }[kind]
        inside = j >= most if kind == "up" else j <= most
        assert got[thread] == thread - lane + (j if inside else lane)


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize("store", [False, True])
def test_matrices(number, store):
    """Matrix m has the rows that lanes 8 m to 8 m + 7 name; lane i has word i % 4 of row i // 4."""
    given, got = np.arange(128 * 2, dtype="u4"), np.zeros(128 * 2, "u4")
    order = np.random.default_rng(0).permutation(32)
    names = [f"%r{40 + m}" for m in range(number)]
    code = [*LANE, "and.b32 %r2, %r1, 31;", "mul.lo.s32 %r3, %r1, 16;"]
    code += [
        "mul.wide.u32 %rd3, %r1, 16;",
        "add.s64 %rd1, %rd1, %rd3;",
        "add.s64 %rd2, %rd2, %rd3;",
    ]
    code += ["ld.param.b64 %rd4, [p2];", "mul.wide.u32 %rd5, %r1, 4;", "add.s64 %rd4, %rd4, %rd5;"]
    code += ["ld.global.b32 %r5, [%rd4];"]  # address of the row that this lane names
    listed, form = "{" + ", ".join(names) + "}", f"sync.aligned.m8n8.x{number}.shared.b16"
    words = ["{%r20, %r21, %r22, %r23}"]
    if store:
        code += [f"ld.global.b32 {n}, [%rd1 + {4 * m}];" for m, n in enumerate(names)]
        code += ["mov.b32 %r20, 0;", "st.shared.v4.b32 [%r3], {%r20, %r20, %r20, %r20};"]
        code += ["bar.sync 0;", f"stmatrix.{form} [%r5], {listed};", "bar.sync 0;"]
        code += [f"ld.shared.v4.b32 {words[0]}, [%r3];", f"st.global.v4.b32 [%rd2], {words[0]};"]
    else:
        code += [f"ld.global.v4.b32 {words[0]}, [%rd1];", f"st.shared.v4.b32 [%r3], {words[0]};"]
        code += ["bar.sync 0;", f"ldmatrix.{form} {listed}, [%r5];"]
        code += [f"st.global.b32 [%rd2 + {4 * m}], {n};" for m, n in enumerate(names)]
    rows = np.concatenate([order, order + 32])
    run(code, [given, got, (16 * rows).astype("u4")], threads=64, shared=1024)
    values, result = given.reshape(64, 4), got.reshape(64, 4)
    for warp in (0, 32):
        for lane in range(32):
            for m in range(number):
                row = rows[warp + 8 * m + lane // 4]
                if store:
                    assert result[row, lane % 4] == values[warp + lane, m]
                else:
                    assert result[warp + lane, m] == values[row, lane % 4]


def test_tensor_cores_multiply_matrices():
    """D = A B + C of 16 x 8 x 8; the lower 13 bits of operands are not seen."""
    generator = np.random.default_rng(3)
    a, b = generator.normal(size=(16, 8)).astype("f4"), generator.normal(size=(8, 8)).astype("f4")
    c = generator.normal(size=(16, 8)).astype("f4")
    group, t = np.divmod(np.arange(32), 4)
    parts = [a[group, t], a[group + 8, t], a[group, t + 4], a[group + 8, t + 4]]
    parts += [b[t, group], b[t + 4, group]]
    parts += [c[group + 8 * (i // 2), 2 * t + i % 2] for i in range(4)]
    given = np.stack(parts)
    got = np.zeros((4, 32), "f4")
    code = [
        *LANE,
        "mul.wide.u32 %rd3, %r1, 4;",
        "add.s64 %rd1, %rd1, %rd3;",
        "add.s64 %rd2, %rd2, %rd3;",
    ]
    code += [f"ld.global.b32 %r{20 + i}, [%rd1 + {128 * i}];" for i in range(10)]
    code += [
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%r30, %r31, %r32, %r33}, "
        "{%r20, %r21, %r22, %r23}, {%r24, %r25}, {%r26, %r27, %r28, %r29};"
    ]
    code += [f"st.global.b32 [%rd2 + {128 * i}], %r{30 + i};" for i in range(4)]
    run(code, [given, got])
    d = np.zeros((16, 8), "f4")
    for i in range(4):
        d[group + 8 * (i // 2), 2 * t + i % 2] = got[i]

    def cut(x):
        return (x.view("u4") & np.uint32(0xFFFFE000)).view("f4").astype("f8")

    assert (d == (cut(a) @ cut(b) + c).astype("f4")).all()
    assert abs(d - (a @ b + c)).max() > 1e-6


def test_lanes_part_and_meet():
    """Loops of different lengths, a return in between, predicated steps, two blocks at a time."""
    got = np.zeros(4 * 64, "u4")
    code = [*LANE, "mov.u32 %r2, %ctaid.x;", "mad.lo.s32 %r3, %r2, 64, %r1;"]
    code += ["mul.wide.u32 %rd3, %r3, 4;", "add.s64 %rd1, %rd1, %rd3;", "mov.b32 %r4, 0;"]
    code += ["mov.b32 %r5, 0;", "setp.eq.s32 %p1, %r3, 70;", "@%p1 bra $OUT;", "$LOOP:"]
    code += ["setp.ge.s32 %p2, %r5, %r3;", "@%p2 bra $DONE;", "add.s32 %r5, %r5, 1;"]
    code += ["and.b32 %r6, %r5, 1;", "setp.eq.b32 %p3, %r6, 0;", "@%p3 add.s32 %r4, %r4, %r5;"]
    code += ["@!%p3 add.s32 %r4, %r4, 1000;", "bra.uni $LOOP;", "$DONE:", "bar.sync 0;"]
    code = [x + "\n" for x in code]
    code[code.index("bar.sync 0;\n")] = "setp.gt.s32 %p4, %r3, 200;\n"
    code += ["@%p4 exit;", "st.global.b32 [%rd1], %r4;", "$OUT:"]
    run(code, [got, got], threads=64, grid=(4, 1, 1), lanes=128)
    for i in range(256):
        wanted = sum(k if k % 2 == 0 else 1000 for k in range(1, i + 1))
        assert got[i] == (0 if i == 70 or i > 200 else wanted)


def test_blocks_know_their_place():
    got = np.zeros(24 * 32, "u4")
    code = ["ld.param.b64 %rd1, [p0];", "mov.u32 %r1, %tid.x;", "mov.u32 %r2, %ctaid.x;"]
    code += ["mov.u32 %r3, %ctaid.y;", "mov.u32 %r4, %ctaid.z;", "mov.u32 %r5, %nctaid.x;"]
    code += ["mov.u32 %r6, %nctaid.y;", "mad.lo.s32 %r7, %r4, %r6, %r3;", "mov.u32 %r9, %ntid.x;"]
    code += ["mad.lo.s32 %r7, %r7, %r5, %r2;", "mad.lo.s32 %r7, %r7, %r9, %r1;"]
    code += [
        "mul.wide.u32 %rd2, %r7, 4;",
        "add.s64 %rd1, %rd1, %rd2;",
        "st.global.b32 [%rd1], %r7;",
    ]
    run(code, [got], grid=(2, 3, 4), lanes=64)
    assert (got == np.arange(got.size)).all()


def test_constants():
    assert constant("0f3F800000", "f32") == 1
    assert constant("0dBFF0000000000000", "f64") == -1
    assert constant("0f3F800000", "b32") == 0x3F800000
    assert constant("-1", "s64") == -1
    assert constant("0xFFFFFFFF", "s32") == -1
    assert constant("-1", "pred")
    assert not constant("0", "pred")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("st.global.b32 [%rd1], %r9;", "read before it is written"),
        ("add.s64 %rd3, %r1, 1;", "%r1 is too narrow for s64"),
        ("add.s64 %r3, %rd1, 1;", "%r3 is too narrow for"),
        ("setp.eq.b32 %r3, %r1, 1;", "is given a predicate"),
    ],
)
def test_registers_have_a_width(code, message):
    with pytest.raises(PtxError, match=message):
        run([*LANE, code], [np.zeros(1, "u8")] * 2)
