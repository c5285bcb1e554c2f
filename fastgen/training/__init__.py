"""Training: probability paths, losses, times, a small trainer, reflow."""

from fastgen.training import losses, paths, times
from fastgen.training.batch import Batch
from fastgen.training.engine import Engine
from fastgen.training.objectives import (
    Autoencoding,
    Denoising,
    Flow,
    LatentScore,
    Trained,
    describe,
    load,
)
from fastgen.training.order import Order
from fastgen.training.reflow import Pairs, reflow
from fastgen.training.scaling import Scaling
from fastgen.training.settings import Settings
from fastgen.training.trainer import Trainer

__all__ = [
    "Autoencoding",
    "Batch",
    "Denoising",
    "Engine",
    "Flow",
    "LatentScore",
    "Order",
    "Pairs",
    "Scaling",
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
