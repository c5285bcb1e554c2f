"""What a step of training is made of, whoever makes the loop: rate, optimiser, average, labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import fastgen.kernels as kernels
from fastgen.kernels import Clock, Noise
from fastgen.training.settings import Settings

# Ids of data items in the stream of times: apart from those of a batch's rows.
ITEMS = 1 << 40


def optimiser(network: nn.Module, settings: Settings, *, fused: bool = True) -> torch.optim.AdamW:
    """AdamW on all parameters, with the settings' rate, betas and decay."""
    return torch.optim.AdamW(
        network.parameters(),
        settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=fused,
    )


def rate(settings: Settings, step: int, spent: float = 0.0) -> float:
    """The learning rate of a step: a linear rise, then constant or half a cosine down to 0.

    spent: the share of a limit of time that is used up, where that is more than that of the steps.
    """
    found = settings.learning_rate * min(1.0, (step + 1) / max(1, settings.warm_up))
    if settings.decay == "cosine":
        found *= (1 + math.cos(math.pi * min(1.0, max(step / settings.steps, spent)))) / 2
    return found


def finite_loss(step: int, loss: Tensor) -> float:
    """The loss as a number; waits for its device.

    Raises:
        FloatingPointError: if it is not finite.
    """
    value = float(loss.item())
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the loss of step {step} is {value}; give a smaller learning_rate, or clip"
        )
    return value


def follow_weights(average: nn.Module, network: nn.Module, settings: Settings, step: int) -> None:
    """Move an average of the weights on, after a step; buffers are copied.

    Its decay is smaller at first: (1 + step) / (10 + step).
    """
    decay = min(settings.average, (1 + step) / (10 + step)) if settings.average else 0.0
    weights = [p.detach() for p in network.parameters()]
    averages = [p.detach() for p in average.parameters()]
    torch._foreach_lerp_(averages, weights, 1 - decay)
    for ours, theirs in zip(average.buffers(), network.buffers(), strict=True):
        ours.copy_(theirs)


def uniform_of_ids(seed: int, device: torch.device, first_id: int, count: int, draw: int) -> Tensor:
    """Numbers [count] in (0, 1) of ids from ``first_id``."""
    ids = torch.arange(first_id, first_id + count, device=device)
    seeds = torch.tensor([seed], device=device)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
    return kernels.times(Noise(seeds, ids, torch.tensor([draw], device=device)), Clock(ends))


def dropped(labels: Tensor, network: nn.Module, settings: Settings, step: int, seed: int) -> Tensor:
    """Labels [B] of which a share is replaced by "none given", for networks that know classes."""
    classes = getattr(network, "classes", 0)
    if not (classes and settings.label_dropout):
        return labels
    u = uniform_of_ids(seed, labels.device, 2 * ITEMS, len(labels), step)
    return labels.masked_fill(u < settings.label_dropout, classes)
