"""Control: samples given observations, and what a model is good for beside samples."""

from fastgen.control.annealing import DAPS
from fastgen.control.given import posterior
from fastgen.control.singular import DDRM
from fastgen.control.steering import Steered, best_of, steer
from fastgen.control.twisted import Twisted
from fastgen.control.uses import (
    Restoration,
    anomaly_score,
    class_posterior,
    denoise,
    denoising_error,
    path_length,
    restore,
)

__all__ = [
    "DAPS",
    "DDRM",
    "Restoration",
    "Steered",
    "Twisted",
    "anomaly_score",
    "best_of",
    "class_posterior",
    "denoise",
    "denoising_error",
    "path_length",
    "posterior",
    "restore",
    "steer",
]
