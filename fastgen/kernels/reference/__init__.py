"""The contract of every kernel as readable PyTorch: any device, any dtype, differentiable."""

from fastgen.kernels.bridge.reference import bridge, times
from fastgen.kernels.brownian.area_reference import brownian_area
from fastgen.kernels.brownian.reference import brownian
from fastgen.kernels.combine.reference import bind, combine, combine_into
from fastgen.kernels.normals.reference import normals

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
