"""Small kernels for the emulator's own tests."""

from tests.ptx.machine import execute
from tests.ptx.memory import GlobalMemory
from tests.ptx.program import Program

TEXT = """
.version 8.7
.target sm_90a
.visible .entry kernel(
{parameters}
)
.reqntid {threads}
{{
    .reg .pred %p<100>;
    .reg .b16 %rs<100>;
    .reg .b32 %r<100>;
    .reg .b64 %rd<100>;
{code}
    ret;
}}
"""


def program(code, parameters=0, threads=32):
    """A kernel of some lines with parameters p0, p1, ... of 64 bits."""
    names = ",\n".join(f"    .param .u64 p{i}" for i in range(parameters))
    return Program(TEXT.format(parameters=names, threads=threads, code="\n".join(code)))


def run(code, arrays, threads=32, grid=(1, 1, 1), shared=0, **options):
    """Run lines on arrays, whose addresses are p0, p1, ..."""
    ranges = [(a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays]
    addresses = [a.ctypes.data for a in arrays]
    kernel = program(code, len(arrays), threads)
    execute(kernel, grid, addresses, shared, GlobalMemory(ranges), **options)
