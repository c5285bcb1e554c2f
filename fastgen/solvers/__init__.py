"""Solvers: each a screen of mathematics on symbolic values."""

from fastgen.solvers import exponential, langevin, velocity
from fastgen.solvers.registry import Solver, get, names, plan, register
from fastgen.solvers.velocity import Tableau, runge_kutta

__all__ = [
    "Solver",
    "Tableau",
    "exponential",
    "get",
    "langevin",
    "names",
    "plan",
    "register",
    "runge_kutta",
    "velocity",
]
