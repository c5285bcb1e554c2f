"""Optimal-transport couplings: which noise sample goes with which data sample."""

from fastgen.couplings.assignment import Assignment, assign

__all__ = ["Assignment", "assign"]
