"""Ordinary differential equations with error-controlled steps, each sample its own."""

from fastgen.kernels.runge_kutta.contract import Status
from fastgen.ode.controller import Controller
from fastgen.ode.events import Event
from fastgen.ode.solve import Solution, Statistics, odeint
from fastgen.ode.tableaus import METHODS

__all__ = ["METHODS", "Controller", "Event", "Solution", "Statistics", "Status", "odeint"]
