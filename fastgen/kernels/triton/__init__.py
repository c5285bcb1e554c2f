"""The kernels in Triton, for CUDA and ROCm devices."""

from fastgen.kernels.bridge.triton import bridge, times
from fastgen.kernels.brownian.area_triton import brownian_area
from fastgen.kernels.brownian.triton import brownian
from fastgen.kernels.combine.triton import bind, combine, combine_into, normals

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
