"""What a step of training is made of, whoever makes the loop: rate, optimiser, average, labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import fastgen.kernels as kernels
from fastgen.kernels import Clock, Noise
from fastgen.training.settings import Settings

# Ids of data items in the stream of times: apart from those of a batch's rows.
ITEMS = 1 << 40
FLIPS = 6 * ITEMS


def optimiser(
    parameters: Iterable[nn.Parameter], settings: Settings, *, fused: bool = True
) -> torch.optim.AdamW:
    """AdamW with the settings' rate, betas and decay."""
    return torch.optim.AdamW(
        parameters,
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


class Averaged(AveragedModel):
    """torch's average of a module's weights, for samples: without gradients, in evaluation mode.

    The first update copies the weights. Update n + 1 has the decay min(decay, (1 + n) / (10 + n)),
    so that a short run's average is not that of its start. Buffers are copied. Works on sharded
    weights as on whole ones.

    Args:
        network: copied.
        decay: of the average; 0: the weights themselves.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, multi_avg_fn=self._follow)
        self.module.requires_grad_(False).eval()
        self.decay = decay
        self._known: tuple[nn.Module, list[list[Tensor]]] | None = None

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """As torch's, with the tensors of both modules looked up once, and not at each step.

        That is a fiftieth of a step of a small UNet, and more of an MLP's.
        """
        if self._known is None or self._known[0] is not model or not self.n_averaged:
            super().update_parameters(model)
            both = self.module, model
            found = [list[Tensor](m.parameters()) for m in both]
            self._known = model, found + [list(m.buffers()) for m in both]
            return
        averages, weights, copies, buffers = self._known[1]
        self._follow(averages, weights, self.n_averaged)
        for copy, buffer in zip(copies, buffers, strict=True):
            copy.copy_(buffer)
        self.n_averaged += 1

    def _follow(self, averages: Any, weights: Any, n: Any) -> None:
        done = int(self.n_averaged)
        decay = min(self.decay, (1 + done) / (10 + done)) if self.decay else 0.0
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Averaged:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._known = None
        self.n_averaged = self.n_averaged.cpu()  # it is looked at: a GPU would be waited for
        return self


def uniform_of_ids(seed: int, device: torch.device, first_id: int, count: int, draw: int) -> Tensor:
    """Numbers [count] in (0, 1) of ids from ``first_id``."""
    ids = torch.arange(first_id, first_id + count, device=device)
    seeds = torch.tensor([seed], device=device)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
    return kernels.times(Noise(seeds, ids, torch.tensor([draw], device=device)), Clock(ends))


def dropped(
    labels: Tensor, network: nn.Module, settings: Settings, step: int, seed: int, first: int = 0
) -> Tensor:
    """Labels [B] of which a share is replaced by "none given", for networks that know classes.

    first: number of the first of these rows in the step's batch.
    """
    classes = getattr(network, "classes", 0)
    if not (classes and settings.label_dropout):
        return labels
    u = uniform_of_ids(seed, labels.device, 2 * ITEMS + first, len(labels), step)
    return labels.masked_fill(u < settings.label_dropout, classes)


def flipped(data: Tensor, step: int, seed: int, first: int = 0) -> Tensor:
    """Samples [B, ...] of which half are mirrored along their last axis."""
    u = uniform_of_ids(seed, data.device, FLIPS + first, len(data), step)
    chosen = (u < 0.5).reshape(-1, *([1] * (data.ndim - 1)))
    return torch.where(chosen, data.flip(-1), data)
