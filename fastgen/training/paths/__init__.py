"""Probability paths: from two samples, or noise and data, to states and regression targets."""

from fastgen.training.paths.gaussian import Brownian, Linear, Scheduled, Target, drift_weight
from fastgen.training.paths.interpolant import Interpolant
from fastgen.training.paths.manifolds import Encoded, FlatTorus, Sphere
from fastgen.training.paths.path import Path
from fastgen.training.paths.path_sample import TARGETS, PathSample

__all__ = [
    "TARGETS",
    "Brownian",
    "Encoded",
    "FlatTorus",
    "Interpolant",
    "Linear",
    "Path",
    "PathSample",
    "Scheduled",
    "Sphere",
    "Target",
    "drift_weight",
]
