"""ODE solvers of velocity models, in R^n and on manifolds."""

from fastgen.integrations.flow_matching.solver.ode import ODESolver
from fastgen.integrations.flow_matching.solver.riemannian import RiemannianODESolver

__all__ = ["ODESolver", "RiemannianODESolver"]
