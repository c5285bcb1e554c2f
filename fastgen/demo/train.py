"""Flow matching on the digits."""

from __future__ import annotations

import time

import torch

from fastgen.common.checks import check_at_least, check_positive
from fastgen.common.threads import threads
from fastgen.datasets import CLASSES, Part
from fastgen.demo.checkpoint import Checkpoint
from fastgen.demo.classifier import BATCH, classifier
from fastgen.networks import ModulatedMLP
from fastgen.schedules import Rectified
from fastgen.training import Flow, Settings, Trainer

LEARNING_RATE = 2e-3
CLASSIFIER_STEPS = 800
OBJECTIVE = Flow(data_at=0)


@threads(1)  # networks this small gain little by two, and wait for each other
def train(
    digits: Part, *, steps: int, minutes: float, seed: int, width: int = 256, progress: bool = True
) -> Checkpoint:
    """Train the velocity field and the classifier.

    Conditional flow matching of Lipman et al. 2023 (arXiv 2210.02747), noise at t = 1, with the
    trainer of `fastgen.training`: the result is the moving average of the weights.

    Args:
        digits: training images and labels.
        steps: number of gradient steps.
        minutes: time limit; as it comes near, the learning rate falls early. One step is always
            made.
        seed: of the weights and of the batches. Equal seeds give equal weights on one machine
            unless the time limit is reached.
        width: width of the velocity field.
        progress: show a bar with the loss (needs tqdm).

    Raises:
        ValueError: if steps < 1 or minutes <= 0.
    """
    check_at_least("steps", steps, 1)
    check_positive("minutes", minutes, infinite=True)
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        features = classifier(digits, min(CLASSIFIER_STEPS, 10 * steps))
        network = ModulatedMLP((1, 8, 8), width, classes=CLASSES)
    left = minutes - (time.perf_counter() - start) / 60
    settings = Settings(steps=steps, batch=BATCH, learning_rate=LEARNING_RATE, seed=seed)
    trainer = Trainer(network, OBJECTIVE.loss, digits.images, settings, digits.labels)
    trainer.run(minutes=max(left, 1e-6), progress=progress)
    seconds = round(time.perf_counter() - start, 2)
    average = trainer.average
    assert isinstance(average, ModulatedMLP)
    return Checkpoint(average, features, Rectified(), seed, trainer.step, seconds)
