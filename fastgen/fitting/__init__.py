"""Plans fitted to a network: a race of solvers, and coefficients and times that are learned."""

from fastgen.fitting.racing import Entry, Race, race
from fastgen.fitting.report import Tuning
from fastgen.fitting.study import Errors
from fastgen.fitting.tuning import tune

__all__ = ["Entry", "Errors", "Race", "Tuning", "race", "tune"]
