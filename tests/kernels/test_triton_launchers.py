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
