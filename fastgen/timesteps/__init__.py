"""Time grids: the decreasing times, from noise (1) to data (0), between which solvers step."""

from fastgen.timesteps import beta, curves, discrete, ratios, tables
from fastgen.timesteps.registry import Grid, Times, get, names, options, register, times

__all__ = [
    "Grid",
    "Times",
    "beta",
    "curves",
    "discrete",
    "get",
    "names",
    "options",
    "ratios",
    "register",
    "tables",
    "times",
]
