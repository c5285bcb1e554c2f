"""The kernels in Triton, for CUDA and ROCm devices."""

from fastgen.kernels.reference.brownian import brownian
from fastgen.kernels.triton.bridge import bridge, times
from fastgen.kernels.triton.combine import bind, combine, combine_into, normals

__all__ = ["bind", "bridge", "brownian", "combine", "combine_into", "normals", "times"]
