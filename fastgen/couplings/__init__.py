"""Couplings: which noise is paired with which data in training."""

from fastgen.couplings.sinkhorn import (
    SinkhornError,
    SinkhornResult,
    sinkhorn,
    sinkhorn_divergence,
)

__all__ = ["SinkhornError", "SinkhornResult", "sinkhorn", "sinkhorn_divergence"]
