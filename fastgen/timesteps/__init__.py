"""Time grids: the decreasing times, from noise (1) to data (0), between which solvers step.

Each is here by its name and is called with its options: ``fastgen.timesteps.karras(rho=5)``.
"""

from fastgen.timesteps.curves import linear_quadratic, normal, quadratic, sgm_uniform, uniform
from fastgen.timesteps.discrete import leading, linspace, trailing
from fastgen.timesteps.quantiles import beta
from fastgen.timesteps.ratios import exponential, karras, kl_optimal, log_snr, polyexponential
from fastgen.timesteps.registry import Grid, Times, get, names, options, register, times
from fastgen.timesteps.tables import ays, gits, table

__all__ = [
    "Grid",
    "Times",
    "ays",
    "beta",
    "exponential",
    "get",
    "gits",
    "karras",
    "kl_optimal",
    "leading",
    "linear_quadratic",
    "linspace",
    "log_snr",
    "names",
    "normal",
    "options",
    "polyexponential",
    "quadratic",
    "register",
    "sgm_uniform",
    "table",
    "times",
    "trailing",
    "uniform",
]
