"""Observations of samples: what is known of one, and how a model is conditioned on it."""

from fastgen.observations.conditioned import conditioned
from fastgen.observations.methods import (
    DDNM,
    DPS,
    METHODS,
    MMPS,
    TMPD,
    DiffPIR,
    Method,
    PiGDM,
    Point,
    Replacement,
)
from fastgen.observations.noise import Gaussian, Noise, Poisson
from fastgen.observations.observation import (
    Linear,
    Local,
    Mask,
    Nonlinear,
    Observation,
)
from fastgen.observations.operator import Operator
from fastgen.observations.operators import (
    average_pool,
    blur,
    gaussian_blur,
    matrix,
    radon,
    random_projection,
    real_time_chunk,
)

__all__ = [
    "DDNM",
    "DPS",
    "METHODS",
    "MMPS",
    "TMPD",
    "DiffPIR",
    "Gaussian",
    "Linear",
    "Local",
    "Mask",
    "Method",
    "Noise",
    "Nonlinear",
    "Observation",
    "Operator",
    "PiGDM",
    "Point",
    "Poisson",
    "Replacement",
    "average_pool",
    "blur",
    "conditioned",
    "gaussian_blur",
    "matrix",
    "radon",
    "random_projection",
    "real_time_chunk",
]
