"""Triton's launchers hand every kernel its parameters in order, to a libcuda that launches nothing.

Each call is made twice. The first describes its tensors to Triton, the second gives addresses only.
"""

import subprocess
import sys

import pytest

from benchmarks.tools import launchers

pytest.importorskip("triton")

SCRIPT = """
from benchmarks.tools.launchers import STREAM, Launches, calls
launches = Launches()
THREADS = {"pairs_kernel": 512}
seen = set()
for name, call in calls().items():
    call()
    first = list(launches.kept)
    launches.kept.clear()
    call()
    second = list(launches.kept)
    launches.kept.clear()
    assert first and len(first) == len(second), name
    for ordinary, short in zip(first, second):
        kernel, where, given, received, plain = ordinary
        assert given == received, (name, kernel, given, received)
        assert short[2] == short[3], (name, kernel, short)
        assert short[4], f"{name}: {kernel} is described anew"
        assert kernel == short[0] and where == short[1] and len(given) == len(short[2])
        assert where[4] == STREAM and where[0] > 0 and where[3] == THREADS.get(kernel, 128), where
        # All that is no new memory is the same: numbers, and tensors that stay.
        same = sum(a == b for a, b in zip(given, short[2]))
        assert same >= len(given) // 2, (name, kernel)
        seen.add(kernel)
    if name.startswith("dopri5"):  # six evaluations; rows longer than a tile; a look in between
        extra = {"dopri5 step": 0, "dopri5 step, long rows": 1, "dopri5 step, watched": 2}[name]
        assert len(first) == 6 + extra, [x[0] for x in first]
print(*sorted(seen))
"""
KERNELS = (
    "bridge_kernel brownian_area_kernel brownian_kernel cascade_kernel combine_kernel "
    "commit_kernel control_kernel error_kernel gram_kernel normals_kernel pairs_kernel "
    "stage_kernel step_kernel stochastic_kernel times_kernel"
)


def run(script, folder):
    environment = launchers.environment(folder)
    if environment is None:
        pytest.skip("needs gcc")
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.strip().splitlines()[-1]


def test_every_kernel_gets_its_parameters(tmp_path):
    assert run(SCRIPT, tmp_path) == KERNELS


# Tensors that say they are on the second device, in memory of the CPU.
OTHER_DEVICE = """
from contextlib import contextmanager
import torch
from torch.overrides import TorchFunctionMode
from benchmarks.tools.launchers import STREAM, Launches, calls

FAR = torch.device("cuda", 1)
now = 0


@contextmanager
def device(wanted):
    global now
    before, now = now, FAR.index if wanted == FAR else now
    yield
    now = before


class InMemory(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        place = lambda x: torch.device("cpu") if x == FAR else x
        function = torch.zeros if function is torch.empty else function  # nothing is computed
        given = {k: place(x) if k == "device" else x for k, x in (kwargs or {}).items()}
        return function(*[place(x) if isinstance(x, torch.device) else x for x in args], **given)


torch.Tensor.device, torch.Tensor.is_cuda = property(lambda x: FAR), True
torch.Tensor.pin_memory = lambda x: x
torch.cuda.device = device
launches = Launches()
launches.driver.get_current_device = lambda: now
launches.driver.get_current_stream = lambda device: STREAM + device
"""
EVERY_KERNEL = """
seen = set()
with InMemory():
    for name, call in calls().items():
        for current, stream, short in ((0, 0, 0), (0, 0, 0), (1, 0, 1), (1, 10, 1), (0, 10, 0)):
            now = current
            launches.driver.get_current_stream = lambda device: STREAM + stream + device
            launches.kept.clear()
            call()
            assert now == current, name
            for kernel, where, given, received, addresses in launches.kept:
                assert where[4:] == (STREAM + stream + 1, 1), (name, kernel, where)
                assert given == received
                assert addresses == bool(short), (name, kernel, current)
                seen.add(kernel)
print(*sorted(seen))
"""
ASSIGNMENT = """
from types import SimpleNamespace
from fastgen.kernels.assignment import cuda
from fastgen.kernels.assignment.contract import Options, Problem

asked = []
found = SimpleNamespace(
    launch=lambda name, blocks, threads, shared, stream, arguments, cooperative: asked.append(
        (now, stream)
    )
)
torch.cuda.current_stream = lambda device: SimpleNamespace(cuda_stream=STREAM + device.index)
with InMemory():
    x = torch.randn(1, 8, 2)
    problem = Problem(x, x, None, False, FAR)
    cuda.solve_with(problem, Options(), cuda.Runtime(found, 132, 200_000))
assert asked == [(1, STREAM + 1)] and now == 0, (asked, now)
print("ok")
"""


def test_every_kernel_runs_where_its_tensors_are(tmp_path):
    """Whatever device is the current one, and on the stream that is current on theirs."""
    assert run(OTHER_DEVICE + EVERY_KERNEL, tmp_path) == KERNELS


def test_the_assignment_runs_where_its_tensors_are(tmp_path):
    assert run(OTHER_DEVICE + ASSIGNMENT, tmp_path) == "ok"
