"""Optimal-transport couplings: which noise sample goes with which data sample."""

from fastgen.couplings.assignment import Assignment, assign
from fastgen.couplings.distances import wasserstein
from fastgen.couplings.distributed import GlobalBatch
from fastgen.couplings.loading import PairingCollate, paired_batches
from fastgen.couplings.pairing import ByLabel, Coupling, ExactOT, Hilbert, Independent, Sorted

__all__ = [
    "Assignment",
    "ByLabel",
    "Coupling",
    "ExactOT",
    "GlobalBatch",
    "Hilbert",
    "Independent",
    "PairingCollate",
    "Sorted",
    "assign",
    "paired_batches",
    "wasserstein",
]
