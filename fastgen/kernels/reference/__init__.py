"""The contract of every kernel as readable PyTorch: any device, any dtype, differentiable."""

from fastgen.kernels.reference.area import brownian_area
from fastgen.kernels.reference.bridge import bridge, times
from fastgen.kernels.reference.brownian import brownian
from fastgen.kernels.reference.combine import bind, combine, combine_into
from fastgen.kernels.reference.noise import normals

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
