"""Fused kernels: one contract each, as PyTorch reference, C++ and torch operator."""

from fastgen.kernels.backend import BACKENDS, implementation
from fastgen.kernels.contract import Noise, Stream
from fastgen.kernels.ops import brownian, combine, normals

__all__ = ["BACKENDS", "Noise", "Stream", "brownian", "combine", "implementation", "normals"]
