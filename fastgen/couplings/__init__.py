"""Couplings: which noise is paired with which data in training."""

from fastgen.couplings.entropic import Sinkhorn
from fastgen.couplings.large import LargeCoupling
from fastgen.couplings.sampling import round_to_permutation, sample_pairs
from fastgen.couplings.semidiscrete import Semidiscrete
from fastgen.couplings.sinkhorn import (
    SinkhornError,
    SinkhornResult,
    sinkhorn,
    sinkhorn_divergence,
)

__all__ = [
    "LargeCoupling",
    "Semidiscrete",
    "Sinkhorn",
    "SinkhornError",
    "SinkhornResult",
    "round_to_permutation",
    "sample_pairs",
    "sinkhorn",
    "sinkhorn_divergence",
]
