"""Stochastic differential equations: solvers of strong and weak order, along reproducible noise."""

from fastgen.sde.adaptive import Adaptive
from fastgen.sde.solve import sdeint

__all__ = ["Adaptive", "sdeint"]
