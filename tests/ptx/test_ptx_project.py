"""The project's tests of Triton kernels, run on their compiled code in the emulator.

Each group is a process of its own: here the interpreter has the kernels. Compiled kernels are
kept between runs (`driver.CACHE`).
"""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

KERNELS = "tests/kernels"
GROUPS = {
    "stages": [
        "tests/ptx/test_ptx_planted.py",
        f"{KERNELS}/test_combine_triton.py",
        "-k",
        "planted or random_calls or layouts or misaligned or bound_reads or independent "
        "or two_groups or (outputs_may and 45) or hide_infinities or (known_elements and shape0)",
    ],
    "others": [
        f"{KERNELS}/test_normals_triton.py",
        f"{KERNELS}/test_bridge_triton.py",
        f"{KERNELS}/test_brownian_triton.py",
        f"{KERNELS}/test_pairwise_triton.py",
        f"{KERNELS}/test_stochastic_combine_triton.py",
        f"{KERNELS}/test_runge_kutta.py",
        f"{KERNELS}/test_cascade.py",
        f"{KERNELS}/test_gram_triton.py",
        "-k",
        "many or philox or beyond or out_of_range or special_times or shape0 or lowest "
        "or bound_calls or (triton and (dopri5-7 or whole_solve or taken)) or long_rows "
        "or (cascade and test_triton) or gram",
    ],
}
WHOLE = {
    "combine": [f"{KERNELS}/test_combine_triton.py"],
    "the rest": [
        *GROUPS["others"][:-2],
        "-k",
        "riton or normals or brownian or reference or given",
    ],
}


def run(arguments):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"FASTGEN_TEST_PTX": "1", "OMP_NUM_THREADS": "1"}
    for name in list(environment):
        if name.startswith("PYTEST_XDIST"):
            del environment[name]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=8"]
    result = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    return result.stdout


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_compiled_kernels_pass(group):
    assert " passed" in run(GROUPS[group])


@pytest.mark.slow
@pytest.mark.parametrize("group", sorted(WHOLE))
def test_compiled_kernels_pass_all_tests(group):
    assert " passed" in run(WHOLE[group])
