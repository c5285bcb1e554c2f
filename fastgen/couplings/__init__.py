"""Optimal-transport couplings: which noise sample goes with which data sample."""

from fastgen.couplings.assignment import Assignment, assign
from fastgen.couplings.coupling import (
    ByLabel,
    Coupling,
    ExactOT,
    Hilbert,
    Independent,
    Sinkhorn,
    Sorted,
)
from fastgen.couplings.distances import wasserstein
from fastgen.couplings.distributed import GlobalBatch
from fastgen.couplings.large import LargeCoupling
from fastgen.couplings.loading import PairingCollate, paired_batches
from fastgen.couplings.named import NamedCoupling
from fastgen.couplings.pairs import round_to_permutation, sample_pairs
from fastgen.couplings.semidiscrete import Semidiscrete
from fastgen.couplings.sinkhorn import (
    SinkhornError,
    SinkhornResult,
    sinkhorn,
    sinkhorn_divergence,
)

__all__ = [
    "Assignment",
    "ByLabel",
    "Coupling",
    "ExactOT",
    "GlobalBatch",
    "Hilbert",
    "Independent",
    "LargeCoupling",
    "NamedCoupling",
    "PairingCollate",
    "Semidiscrete",
    "Sinkhorn",
    "SinkhornError",
    "SinkhornResult",
    "Sorted",
    "assign",
    "paired_batches",
    "round_to_permutation",
    "sample_pairs",
    "sinkhorn",
    "sinkhorn_divergence",
    "wasserstein",
]
