"""Fused kernels: one contract each, as PyTorch reference, C++ and torch operator."""

from fastgen.kernels.backend import BACKENDS, implementation, requested
from fastgen.kernels.contract import Clock, Noise, Sampling, Stream
from fastgen.kernels.ops import brownian, combine, normals
from fastgen.kernels.training_ops import batches, bridge, plain, times

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
