"""Reductions over all pairs of two clouds of points, without the matrix of pairs."""

from fastgen.kernels.pairwise.contract import NOWHERE, TILE, Kept, Keys
from fastgen.kernels.pairwise.operator import best, can_sweep, log_sum, mean, sample, sweep

__all__ = [
    "NOWHERE",
    "TILE",
    "Kept",
    "Keys",
    "best",
    "can_sweep",
    "log_sum",
    "mean",
    "sample",
    "sweep",
]
