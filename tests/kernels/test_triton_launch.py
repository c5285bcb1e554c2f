"""Launching and compiling the Triton kernels on a machine without a GPU.

A stand-in takes the place of Triton's driver: kernels compile for real, launches are recorded.
All of it runs in processes of its own, which neither the interpreter nor a GPU must touch.
"""

import os

import pytest
import torch

from tests.support.processes import last_line

pytest.importorskip("triton")

STAND_IN = """
import sys, timeit
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from fastgen.kernels.combine import triton as kernels
from fastgen.kernels.contract import Noise
from fastgen.kernels.brownian.triton_kernels import brownian_kernel
from fastgen.kernels.combine.triton_kernels import combine_kernel
from fastgen.kernels.normals.triton_kernels import normals_kernel
from fastgen.kernels.triton_support import launch

launches = []


class Utils:
    get_device_properties = staticmethod(lambda device: {"max_shared_mem": 1 << 17})
    load_binary = staticmethod(lambda *_: (1, 2, 32, 0, 1024))


class StandIn:
    utils = Utils()
    launcher_cls = staticmethod(lambda source, metadata: lambda *a: launches.append(a))
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 77)
    get_active_torch_device = staticmethod(lambda: torch.device("cpu"))


driver.set_active(StandIn())


def compiled(kernel=combine_kernel):
    return len(kernel.device_caches[0][0])


def noise(rows):
    return Noise(torch.tensor([1]), torch.arange(rows), torch.tensor([0]))
"""


def test_integers_do_not_specialise():
    """Rows and elements of 1, multiples of 16 and beyond 2^31, streams, bounds: one binary."""
    script = """
x, keys, table = torch.zeros(16), torch.zeros(16, dtype=torch.int64), torch.zeros(16).double()
for value in (0, 1, 3, 16, 2**31, 2**33 + 1, -1, 2**62):
    tail = (value,) * 5
    real = triton.language.float32
    constants = (1, 1, False, False, False, 0, real, 4, 128, False, False, True)
    combine_kernel.warmup(
        (x, x), (x,), table, keys, keys, keys, None, None, *tail, *constants,
        grid=(1,), **launch.OPTIONS
    )
    normals_kernel.warmup(
        x, keys, keys, keys, value, value, value, *constants[3:4], *constants[7:],
        grid=(1,), **launch.OPTIONS
    )
    brownian_kernel.warmup(
        table, keys, keys, table, value, value, value,
        False, False, 128, False, False, True, 24, grid=(1, 1), **launch.OPTIONS
    )
assert compiled() == 1, compiled()
assert compiled(normals_kernel) == 1
assert compiled(brownian_kernel) == 1
"""
    last_line(STAND_IN + script)


def test_lean_launch_passes_what_the_ordinary_one_does():
    script = """
x, y, out = torch.zeros(4, 64), torch.zeros(4, 64), torch.zeros(4, 64)
table = torch.zeros(1, 2, 4).double()
bound = kernels.bind([x, None], [out], table, (-1.0, 1.0), noise(4))
assert not bound._launch.ready()
bound([y])
assert bound._launch.ready()
bound([y])
other = torch.zeros(4, 64)
bound([other])


def flat(launch):
    for a in launch:
        if isinstance(a, tuple) and not hasattr(a, "_fields"):
            yield from flat(a)
        else:
            yield a.data_ptr() if isinstance(a, torch.Tensor) else a


ordinary, lean, third = (tuple(flat(a[:6])) + tuple(flat(a[9:])) for a in launches)
assert ordinary == lean, (ordinary, lean)
assert launches[1][3] == 77
difference = [pair for pair in zip(lean, third) if pair[0] != pair[1]]
assert difference == [(y.data_ptr(), other.data_ptr())], difference
assert compiled() == 1

count = len(launches)
bound([torch.zeros(4 * 64 + 1)[1:].view(4, 64)])  # not on 16 bytes: a kernel of its own
assert compiled() == 2
bound([y])
assert len(launches) == count + 2 and compiled() == 2
bound([y.bfloat16()])
assert compiled() == 3
twin = kernels.bind([x, None], [x], table[:, :, :], (-2.0, 2.0), noise(4))
assert twin._launch.ready()  # another stage of the same signature has compiled its kernel
count = len(launches)
kernels.combine([x, y], table, [torch.float32], (-1.0, 1.0), noise(4))
assert len(launches) == count + 1 and compiled() == 3
assert isinstance(launches[-1][9][0], int)  # by addresses: lean
"""
    last_line(STAND_IN + script)


def test_tensors_of_another_device_than_the_current_one():
    """No short launch: Triton takes a stream of the current device, which then is made theirs."""
    script = """
from fastgen.kernels.normals import triton as normals
x, out = torch.zeros(4, 64), torch.zeros(4, 64)
bound = kernels.bind([x], [out], torch.zeros(1, 1, 1).double())
keys = torch.tensor([1]), torch.arange(4)
for _ in range(2):
    bound([])
    normals.normals(64, *keys, 0, 0)
assert bound._launch.ready()
assert [isinstance(a[9], torch.Tensor) for a in launches[1::2]] == [True, False]
driver.active.get_current_device = lambda: 1
assert not bound._launch.ready()
normals.normals(64, *keys, 0, 0)
assert isinstance(launches[-1][9], torch.Tensor)
"""
    last_line(STAND_IN + script)


def test_profiler_hooks_see_every_launch():
    script = """
x, out = torch.zeros(4, 64), torch.zeros(4, 64)
bound = kernels.bind([x], [out], torch.zeros(1, 1, 1).double())
bound([])
assert bound._launch.ready()
hook = lambda metadata: None
if hasattr(triton.knobs.runtime.launch_enter_hook, "add"):
    triton.knobs.runtime.launch_enter_hook.add(hook)
else:
    triton.knobs.runtime.launch_enter_hook = hook
assert not bound._launch.ready()
bound([])
assert launches[-1][6] is not None
"""
    last_line(STAND_IN + script)


def test_large_calls_fit_the_grid():
    from fastgen.kernels.triton_support.geometry import geometry

    for rows, elements in ((1, 2**39), (2**31, 3), (70_000, 100_000), (3, 2**33)):
        for noises in (0, 1):
            g = geometry(rows, elements, [torch.float32], 2, noises, False)
            assert 0 < g.programs < 2**31
            groups = -(-g.elements // g.width)
            assert g.programs * g.block >= g.rows * groups
            assert not g.mixed or groups < 2**20


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_importing_fastgen_does_not_import_triton():
    last_line("import sys, fastgen; assert 'triton' not in sys.modules")


def test_backend_names_what_it_needs():
    from fastgen.kernels.dispatch import choose

    if os.environ.get("TRITON_INTERPRET") != "1":
        with pytest.raises(ValueError, match="runs on CUDA and ROCm tensors, got cpu"):
            choose(torch.device("cpu"), "triton")
    assert choose(torch.device("cuda")) == "triton"
    with pytest.raises(ValueError, match="runs on CPU tensors"):
        choose(torch.device("cuda"), "cpp")


def test_compiles_ahead_of_time_for_every_target():
    """One kernel with noise and mixed dtypes for each target; CI compiles all of them."""
    script = """
from fastgen.kernels import aot
raise SystemExit(aot.main(["--only", "noise mixed", "--jobs", "1"]))
"""
    assert last_line(script) == "all 4 pass"


def test_gate_closes():
    script = """
from dataclasses import replace
from fastgen.kernels import aot
from fastgen.kernels.triton_support.launch import OPTIONS

variant = aot.VARIANTS[1]
assert aot.judge(variant, "sm_90").faults == []
assert "registers" in aot.judge(replace(variant, ceiling=8), "sm_90").faults[0]
OPTIONS["enable_fp_fusion"] = True
assert any(f.startswith("fused") for f in aot.judge(variant, "sm_90").faults)
assert any(f.startswith("fused") for f in aot.judge(variant, "gfx942").faults)
"""
    last_line(script)


@pytest.mark.slow
def test_every_variant_compiles_ahead_of_time():
    script = "from fastgen.kernels import aot; raise SystemExit(aot.main([]))"
    assert last_line(script).startswith("all ")
