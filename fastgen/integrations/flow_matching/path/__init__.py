"""Probability paths between x_0 and x_1."""

from fastgen.integrations.common.names import Refused
from fastgen.integrations.flow_matching.common import DISCRETE
from fastgen.integrations.flow_matching.path.paths import (
    AffineProbPath,
    CondOTProbPath,
    GeodesicProbPath,
    PathSample,
    ProbPath,
)

__all__ = ["AffineProbPath", "CondOTProbPath", "GeodesicProbPath", "PathSample", "ProbPath"]

__getattr__ = Refused(
    __name__, {"DiscretePathSample": DISCRETE, "MixtureDiscreteProbPath": DISCRETE}
)
