"""Fused kernels: every operation as PyTorch reference, C++, Triton and torch operator.

`dispatch` has the table of them all. Five operations have the names of the folders they are in:
``fastgen.kernels.combine`` is the function, and ``from fastgen.kernels.combine.reference import
combine`` reaches into the folder.
"""

from fastgen.kernels.bridge.contract import Clock, Sampling
from fastgen.kernels.bridge.operator import batches, bridge, plain, times
from fastgen.kernels.brownian.operator import brownian
from fastgen.kernels.combine.contract import Known
from fastgen.kernels.combine.operator import combine
from fastgen.kernels.contract import Noise, Stream
from fastgen.kernels.dispatch import BACKENDS
from fastgen.kernels.gram.operator import gram
from fastgen.kernels.normals.operator import normals
from fastgen.kernels.stochastic_combine.operator import bind_stochastic, stochastic_combine

__all__ = [
    "BACKENDS",
    "Clock",
    "Known",
    "Noise",
    "Sampling",
    "Stream",
    "batches",
    "bind_stochastic",
    "bridge",
    "brownian",
    "combine",
    "gram",
    "normals",
    "plain",
    "stochastic_combine",
    "times",
]
