"""Faults planted in small kernels are seen. Those in the project's: `test_ptx_planted.py`."""

import numpy as np
import pytest

from tests.ptx.kernels import program, run
from tests.ptx.memory import AccessError
from tests.ptx.program import Program, PtxError

LANE = ["mov.u32 %r1, %tid.x;", "ld.param.b64 %rd1, [p0];", "mul.wide.u32 %rd3, %r1, 4;"]
LANE += ["add.s64 %rd1, %rd1, %rd3;", "mul.lo.s32 %r2, %r1, 4;"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%rd1];", "misaligned access of 16 bytes"),
        ("st.global.b64 [%rd1 + 4], %rd3;", "misaligned access of 8 bytes to global"),
        ("ld.global.b32 %r4, [%rd1 + 4];", r"outside of all tensors \(1 lanes\)"),
        ("ld.global.b32 %r4, [%rd1 + -4];", r"outside of all tensors"),
        ("st.global.b32 [%rd1 + 1024], %r1;", r"outside of all tensors \(32 lanes\)"),
        ("ld.shared.b32 %r4, [%r2 + 2];", "misaligned access of 4 bytes to shared"),
        ("ld.shared.v2.b32 {%r4, %r5}, [%r2];", "misaligned access of 8 bytes to shared"),
        ("st.shared.b32 [%r2 + 4], %r1;", "outside of 128 of shared memory"),
        ("cp.async.cg.shared.global [%r2], [%rd1], 16;", "misaligned access of 16 bytes"),
    ],
)
def test_accesses_are_checked(line, message):
    with pytest.raises(AccessError, match=message):
        run([*LANE, line], [np.zeros(32, "u4")], shared=128)


@pytest.mark.parametrize(
    "line",
    ["bar.sync 0;", "shfl.sync.bfly.b32 %r4, %r1, 1, 31, -1;"],
)
def test_steps_of_a_warp_need_all_its_lanes(line):
    code = [*LANE, "setp.gt.s32 %p1, %r1, 3;", "@%p1 bra $L;", line, "$L:"]
    code = [x + "\n" for x in code]
    with pytest.raises(PtxError, match="only some of 32 lanes"):
        run(code, [np.zeros(32, "u4")])


@pytest.mark.parametrize("name", ["add.f32", "mul.f64", "sub.ftz.f32"])
def test_sums_without_a_rounding_are_refused(name):
    with pytest.raises(PtxError, match="may be fused"):
        program([f"{name} %r1, %r2, %r3;"])


def test_unknown_instructions_are_refused():
    with pytest.raises(PtxError, match=r"unknown instruction sin\.approx\.f32"):
        program(["sin.approx.f32 %r1, %r2;"])
    with pytest.raises(PtxError, match="cannot read"):
        program(["@@ what;"])


def test_fused_and_approximate_instructions_are_named():
    lines = ["fma.rn.f32 %r1, %r2, %r3, %r4;", "ex2.approx.ftz.f32 %r1, %r2;"]
    assert program(lines).inexact == ["ex2.approx.ftz.f32", "fma.rn.f32"]
    assert program(["mad.lo.s32 %r1, %r2, %r3, %r4;", "add.rn.f32 %r1, %r2, %r3;"]).inexact == []


def test_a_text_without_a_kernel_is_refused():
    with pytest.raises(PtxError, match="entry"):
        Program(".version 8.7")
    with pytest.raises(PtxError, match="threads"):
        Program(".visible .entry k(.param .u64 a) {\n ret;\n}\n")
