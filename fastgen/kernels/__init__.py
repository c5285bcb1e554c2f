"""Fused kernels: one contract each, as PyTorch reference, C++ and torch operator."""

from fastgen.kernels.bridge.operator import batches, bridge, plain, times
from fastgen.kernels.combine.operator import brownian, combine, normals
from fastgen.kernels.contract import Clock, Noise, Sampling, Stream
from fastgen.kernels.dispatch import BACKENDS, implementation, requested

__all__ = [
    "BACKENDS",
    "Clock",
    "Noise",
    "Sampling",
    "Stream",
    "batches",
    "bridge",
    "brownian",
    "combine",
    "implementation",
    "normals",
    "plain",
    "requested",
    "times",
]
