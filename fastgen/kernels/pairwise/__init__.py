"""Reductions over all pairs of two clouds of points, without the matrix of pairs."""

from fastgen.kernels.pairwise.contract import NOWHERE, TILE, Keys
from fastgen.kernels.pairwise.ops import best, log_sum, mean, sample

__all__ = ["NOWHERE", "TILE", "Keys", "best", "log_sum", "mean", "sample"]
