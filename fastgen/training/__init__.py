"""Training: probability paths, losses, times, a small trainer, reflow."""

from fastgen.training import losses, paths, times
from fastgen.training.objectives import (
    Autoencoding,
    Denoising,
    Flow,
    LatentScore,
    Trained,
    describe,
    load,
)
from fastgen.training.reflow import Pairs, reflow
from fastgen.training.settings import Settings
from fastgen.training.trainer import Batch, Trainer

__all__ = [
    "Autoencoding",
    "Batch",
    "Denoising",
    "Flow",
    "LatentScore",
    "Pairs",
    "Settings",
    "Trained",
    "Trainer",
    "describe",
    "load",
    "losses",
    "paths",
    "reflow",
    "times",
]
