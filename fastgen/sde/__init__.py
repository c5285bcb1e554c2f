"""Stochastic differential equations: solvers of strong and weak order, along reproducible noise."""

from fastgen.sde.motion import BrownianPath
from fastgen.sde.solve import sdeint

__all__ = ["BrownianPath", "sdeint"]
