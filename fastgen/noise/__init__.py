"""The noise contract: normals and Brownian motions as functions of seed and sample id."""

from fastgen.noise.brownian import brownian
from fastgen.noise.brownian_path import BrownianPath
from fastgen.noise.interpolation import interpolate
from fastgen.noise.normals import randn

__all__ = ["BrownianPath", "brownian", "interpolate", "randn"]
