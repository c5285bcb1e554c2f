"""ODE solvers of velocity models, in R^n and on manifolds."""

from fastgen.integrations.common.names import Refused
from fastgen.integrations.flow_matching.common import DISCRETE
from fastgen.integrations.flow_matching.solver.ode_solver import ODESolver
from fastgen.integrations.flow_matching.solver.riemannian_ode_solver import RiemannianODESolver
from fastgen.integrations.flow_matching.solver.solver import Solver

__all__ = ["ODESolver", "RiemannianODESolver", "Solver"]

__getattr__ = Refused(__name__, {"MixtureDiscreteEulerSolver": DISCRETE})
