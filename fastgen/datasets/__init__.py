"""Data to train on: handwritten digits, points in the plane, files of arrays and images."""

from fastgen.datasets.data import SAMPLES, Data, load
from fastgen.datasets.digits import CLASSES, Digits, Part, load_digits
from fastgen.datasets.planar import SETS, checkerboard, eight_gaussians, moons, s_curve

__all__ = [
    "CLASSES",
    "SAMPLES",
    "SETS",
    "Data",
    "Digits",
    "Part",
    "checkerboard",
    "eight_gaussians",
    "load",
    "load_digits",
    "moons",
    "s_curve",
]
