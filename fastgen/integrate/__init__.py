"""Ordinary differential equations with error-controlled steps, each sample its own."""

from fastgen.integrate.controller import Controller
from fastgen.integrate.events import Event
from fastgen.integrate.solve import Solution, Statistics, odeint
from fastgen.integrate.tableaus import METHODS
from fastgen.kernels.integrate import Status

__all__ = ["METHODS", "Controller", "Event", "Solution", "Statistics", "Status", "odeint"]
