"""The kernels in Triton, for CUDA and ROCm devices."""

from fastgen.kernels.triton.area import brownian_area
from fastgen.kernels.triton.bridge import bridge, times
from fastgen.kernels.triton.combine import bind, combine, combine_into, normals
from fastgen.kernels.triton.tree import brownian

__all__ = [
    "bind",
    "bridge",
    "brownian",
    "brownian_area",
    "combine",
    "combine_into",
    "normals",
    "times",
]
