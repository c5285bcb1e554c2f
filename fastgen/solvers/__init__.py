"""Solvers: each a screen of mathematics on symbolic values."""

from fastgen.common.tableau import Tableau
from fastgen.solvers import (
    bridge_sde,
    exponential,
    exponential_rk,
    few_step,
    flow_sde,
    langevin,
    multistep,
    restart,
    seeds,
    stochastic,
    stochastic_multistep,
    stork,
    velocity,
    velocity_rk,
)
from fastgen.solvers.registry import Solver, get, names, plan, register
from fastgen.solvers.stochastic import with_churn
from fastgen.solvers.velocity import runge_kutta

__all__ = [
    "Solver",
    "Tableau",
    "bridge_sde",
    "exponential",
    "exponential_rk",
    "few_step",
    "flow_sde",
    "get",
    "langevin",
    "multistep",
    "names",
    "plan",
    "register",
    "restart",
    "runge_kutta",
    "seeds",
    "stochastic",
    "stochastic_multistep",
    "stork",
    "velocity",
    "velocity_rk",
    "with_churn",
]
