"""Generation beyond one machine: samples by the million, by any number of processes.

The noise contract makes sample i the same whoever draws it. So a set is cut into shards, processes
take one after another, and all that they share is a folder.
"""

from fastgen.generation.folder import Generated
from fastgen.generation.formats.block import Block
from fastgen.generation.formats.table import FORMATS
from fastgen.generation.run import generate
from fastgen.generation.statistics import (
    Features,
    Moments,
    Statistics,
    frechet,
    frechet_distance,
    precision_recall,
    stored_statistics,
)
from fastgen.generation.world import Place

__all__ = [
    "FORMATS",
    "Block",
    "Features",
    "Generated",
    "Moments",
    "Place",
    "Statistics",
    "frechet",
    "frechet_distance",
    "generate",
    "precision_recall",
    "stored_statistics",
]
