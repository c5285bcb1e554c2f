"""Networks trained on the digits, which predict noise, v and velocity."""

from __future__ import annotations

import torch

import fastgen
from fastgen.datasets import CLASSES, Part
from fastgen.demo.classifier import BATCH
from fastgen.networks import ModulatedMLP
from fastgen.schedules import CosineVP
from fastgen.training import Denoising, Flow, Settings, Trainer

OBJECTIVES: dict[str, Denoising | Flow] = {
    "noise": Denoising(CosineVP(), "noise"),
    "v": Denoising(CosineVP(), "v"),
    "velocity": Flow(data_at=0),
}


def trained(objective: Denoising | Flow, digits: Part, steps: int) -> fastgen.Model:
    """A network of the demonstration's kind after ``steps`` steps."""
    torch.manual_seed(0)
    network = ModulatedMLP((1, 8, 8), 256, classes=CLASSES)
    settings = Settings(steps=steps, batch=BATCH, warm_up=min(100, steps // 4))
    trainer = Trainer(network, objective.loss, digits.images, settings, digits.labels)
    trainer.run(progress=False)
    return objective.model(trainer.average)
