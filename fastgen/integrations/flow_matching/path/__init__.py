"""Probability paths between x_0 and x_1."""

from fastgen.integrations.flow_matching.path.paths import (
    AffineProbPath,
    CondOTProbPath,
    GeodesicProbPath,
    PathSample,
    ProbPath,
)

__all__ = ["AffineProbPath", "CondOTProbPath", "GeodesicProbPath", "PathSample", "ProbPath"]
