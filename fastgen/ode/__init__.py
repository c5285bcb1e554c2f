"""Ordinary differential equations with error-controlled steps for each sample."""

from fastgen.common.step_size import Controller
from fastgen.kernels.runge_kutta.contract import Status
from fastgen.ode.adjoint import Adjoint
from fastgen.ode.events import Crossing, Event
from fastgen.ode.execution import Execution
from fastgen.ode.prepared import CompiledSolve, compile_odeint
from fastgen.ode.replay import Through
from fastgen.ode.solution import Solution, Statistics
from fastgen.ode.solve import odeint
from fastgen.ode.tableaus import METHODS
from fastgen.ode.watching import Accepted, Attempt

__all__ = [
    "METHODS",
    "Accepted",
    "Adjoint",
    "Attempt",
    "CompiledSolve",
    "Controller",
    "Crossing",
    "Event",
    "Execution",
    "Solution",
    "Statistics",
    "Status",
    "Through",
    "compile_odeint",
    "odeint",
]
