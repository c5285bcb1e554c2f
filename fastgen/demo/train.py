"""Flow matching on the digits, and the classifier by which the samples are judged."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

from fastgen import schedules
from fastgen.demo.checkpoint import Checkpoint
from fastgen.demo.data import CLASSES, Part
from fastgen.demo.networks import DigitFeatures, DigitFlow

BATCH = 128
LEARNING_RATE = 1e-3
WARM_UP = 100
AVERAGE = 0.998  # decay of the moving average of the weights
LABEL_DROPOUT = 0.1  # so that the network also knows digits of any class
CLASSIFIER_STEPS = 800


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: on networks this small two gain little, and lose tenfold (each
    waits for the other at every operation) as soon as another process wants a core.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def train(
    digits: Part, *, steps: int, minutes: float, seed: int, width: int = 256, progress: bool = True
) -> Checkpoint:
    """Train the velocity field and the classifier.

    Minimises E |u(x_t, t, label) - (eps - x_0)|^2 with x_t = (1 - t) x_0 + t eps, t uniform:
    conditional flow matching of Lipman et al. 2023 (arXiv 2210.02747), noise at t = 1. AdamW,
    learning rate up linearly and down by a cosine; the result is the exponential moving average
    of the weights.

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
    if steps < 1:
        raise ValueError(f"steps={steps}: expected at least 1")
    if not minutes > 0:
        raise ValueError(f"minutes={minutes}: expected a positive number")
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        features = classifier(digits, min(CLASSIFIER_STEPS, 10 * steps))
        left = 60 * minutes - (time.perf_counter() - start)
        network, done = _velocity_field(digits, DigitFlow(width), steps, left, progress)
    seconds = round(time.perf_counter() - start, 2)
    return Checkpoint(network, features, schedules.Rectified(), seed, done, seconds)


def flow_matching_loss(network: DigitFlow, x0: Tensor, labels: Tensor) -> Tensor:
    """Mean square of u(x_t, t) - (eps - x_0), one t per image, stratified over [0, 1]."""
    t = (torch.arange(len(x0)) + torch.rand(len(x0))) / len(x0)
    eps = torch.randn_like(x0)
    s = t[:, None, None, None]
    return functional.mse_loss(network((1 - s) * x0 + s * eps, t, labels), eps - x0)


def _velocity_field(
    digits: Part, network: DigitFlow, steps: int, limit: float, progress: bool
) -> tuple[DigitFlow, int]:
    from tqdm.auto import tqdm

    average = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, fused=True)
    start = time.perf_counter()
    done = 0
    with tqdm(total=steps, desc="training", unit="step", disable=not progress) as bar:
        while done < steps and (done == 0 or time.perf_counter() - start < limit):
            spent = (time.perf_counter() - start) / limit if done else 0.0
            fall = (1 + math.cos(math.pi * min(1.0, max(done / steps, spent)))) / 2
            rate = LEARNING_RATE * min(1.0, (done + 1) / WARM_UP) * fall
            optimiser.param_groups[0]["lr"] = rate
            images, labels = _batch(digits)
            dropped = torch.rand(BATCH) < LABEL_DROPOUT
            loss = flow_matching_loss(network, images, labels.masked_fill(dropped, CLASSES))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            decay = min(AVERAGE, (1 + done) / (10 + done))
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
            done += 1
            bar.update()
            if done % 50 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return average.eval(), done


def classifier(digits: Part, steps: int) -> DigitFeatures:
    """Cross-entropy on slightly noisy digits."""
    network = DigitFeatures()
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.05, fused=True)
    for _ in range(steps):
        images, labels = _batch(digits)
        noisy = images + 0.2 * torch.randn_like(images)
        loss = functional.cross_entropy(network(noisy), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network.requires_grad_(False).eval()


def _batch(digits: Part) -> Part:
    chosen = torch.randint(len(digits.images), (BATCH,))
    return Part(digits.images[chosen], digits.labels[chosen])
