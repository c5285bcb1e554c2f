"""Coefficients and times by gradients through the unrolled run.

Bespoke non-stationary solvers (Shaul et al. 2024, arXiv 2403.01329) in the form of `Rows`, with
the loss of their section 4 on each sample's end, mean log |x - y|^2; and the relaxed objective of
S4S (Frankel et al. 2025, arXiv 2502.17423, section 3): a sample may begin anywhere within a ball
around its noise, min over |x_0' - x_0| <= radius |x_0|, as far as the teacher's end is concerned.
With what="grid" the times alone move, under the solver's own coefficients (as AYS, arXiv
2404.14507, GITS, arXiv 2405.11326, and OptimalSteps, arXiv 2503.21774, choose them).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from fastgen.fitting.moving import Moving
from fastgen.fitting.rows import Rows
from fastgen.fitting.study import Batch, Study

Features = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


def log_loss(x: Tensor, y: Tensor) -> Tensor:
    """Mean over samples of log mean (x - y)^2: a sample counts by factors, whatever its error."""
    return (row_squares(x, y) + 1e-12).log().mean()


def squared_loss(x: Tensor, y: Tensor) -> Tensor:
    """Mean of (x - y)^2: samples that end elsewhere count most."""
    return row_squares(x, y).mean()


def norm_loss(x: Tensor, y: Tensor) -> Tensor:
    """Mean over samples of |x - y|, rms of the elements: between the other two."""
    return (row_squares(x, y) + 1e-12).sqrt().mean()


LOSSES: dict[str, Loss] = {"log": log_loss, "norm": norm_loss, "squared": squared_loss}


def row_squares(x: Tensor, y: Tensor) -> Tensor:
    """Mean squares of each sample's difference, [B], in float64."""
    return (x.double() - y.double()).flatten(1).square().mean(1)


@dataclass(frozen=True)
class Descent:
    """How the gradients are followed; see `fastgen.tune`."""

    iterations: int = 300
    rate: float = 0.3
    loss: str | Loss = "norm"
    features: Features | None = None
    relaxation: float = 0.0
    patience: int = 5
    every: int = 20
    checkpoint: bool = False

    def error(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a batch's end states against the teacher's."""
        if self.features is not None:
            x, y = self.features(x), self.features(y)
        return (LOSSES[self.loss] if isinstance(self.loss, str) else self.loss)(x, y)


class Unrolled:
    """The run of moving rows on a batch, recorded for autograd."""

    def __init__(self, study: Study, moving: Moving, descent: Descent) -> None:
        self.study, self.moving, self.descent = study, moving, descent

    def __call__(self, batch: Batch, start: Tensor) -> Tensor:
        """The end states from initial states."""
        x = start
        times, coefficients = self.moving.values()
        past: list[Tensor] = []
        for t, c in zip(times, coefficients, strict=True):

            def step(x: Tensor, *past: Tensor, t: Any = t, c: Tensor = c) -> tuple[Tensor, Tensor]:
                u = self._prediction(x, t, batch)
                moved = c.to(x.device, x.dtype)
                new = moved[0] * x
                for weight, value in zip(moved[1:], (*past, u), strict=True):
                    new = new + weight * value
                return new, u

            if self.descent.checkpoint:
                x, u = recompute(step, x, *past, use_reentrant=False)
            else:
                x, u = step(x, *past)
            past.append(u)
        return x

    def _prediction(self, x: Tensor, t: Any, batch: Batch) -> Tensor:
        """What the rows are of at (x, t); with the derivative in t where that is a tensor."""
        rows, number = self.moving.rows, float(t.detach()) if isinstance(t, Tensor) else t
        given = batch, rows.plan.clip
        u = self.study.prediction(rows.quantity, x, number, *given)
        if not isinstance(t, Tensor) or not t.requires_grad:
            return u
        # Networks may take t as a number or look it up, which autograd would not show: differences.
        with torch.no_grad():
            step = 1e-3 * min(number, 1 - number) if 0 < number < 1 else 0.0
            if not step:
                return u
            ends = [
                self.study.prediction(rows.quantity, x, number + sign * step, *given)
                for sign in (1, -1)
            ]
            slope = (ends[0] - ends[1]) / (2 * step)
        return u + (t - number).to(x.device, x.dtype) * slope


class Descended:
    """The state of a fit by gradients: everything that a resumed one needs.

    error: of the states at the end, about, to which steps are relative. best: the free numbers with
    the least loss on the held-out batches so far, and that loss.
    """

    def __init__(
        self,
        study: Study,
        moving: Moving,
        descent: Descent,
        train: Sequence[Batch],
        error: float,
    ) -> None:
        self.study, self.moving, self.descent, self.train = study, moving, descent, train
        self.groups = moving.parameters
        self.free = [p for group in self.groups.values() for p in group]
        self.run = Unrolled(study, moving, descent)
        rates = {"gaps": 3.0, "moves": 1.0}
        groups = [
            {"params": group, "lr": descent.rate * error * rates[name]}
            for name, group in self.groups.items()
            if group
        ]
        for parameter in self.free:
            parameter.requires_grad_(True)
        self.optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda k: 0.5 * (1 + math.cos(math.pi * min(k / descent.iterations, 1)))
        )
        sigma = study.schedule.sigma(moving.rows.times[0])
        self.starts = [b.z * sigma for b in train]
        self.offsets = [torch.zeros_like(x) for x in self.starts]
        self.iteration, self.waited = 0, 0
        self.best, self.best_loss = self._numbers(), math.inf

    def _numbers(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.free]

    def held_out(self, batches: Sequence[Batch]) -> float:
        """The loss on batches that are not fitted to."""
        sigma = self.study.schedule.sigma(self.moving.rows.times[0])
        with torch.no_grad():
            losses = [self.descent.error(self.run(b, b.z * sigma), b.targets[-1]) for b in batches]
        return float(sum(losses) / len(losses))

    def look(self, batches: Sequence[Batch]) -> bool:
        """Keep the numbers if they are the best so far; whether it is worth to go on."""
        loss = self.held_out(batches)
        if loss < self.best_loss:
            self.best, self.best_loss, self.waited = self._numbers(), loss, 0
        else:
            self.waited += 1
        return math.isfinite(loss) and self.waited < self.descent.patience

    def advance(self) -> bool:
        """One step of Adam on the next batch; False, and nothing moved, where it is not finite."""
        k = self.iteration % len(self.train)
        batch, radius = self.train[k], self.descent.relaxation
        start = self.starts[k] + self.offsets[k]
        start.requires_grad_(radius > 0)
        loss = self.descent.error(self.run(batch, start), batch.targets[-1])
        wanted = [*self.free, *([start] if radius > 0 else [])]
        gradients = torch.autograd.grad(loss, wanted)
        if not all(bool(torch.isfinite(g).all()) for g in (loss, *gradients)):
            return False
        for parameter, gradient in zip(self.free, gradients, strict=False):
            parameter.grad = gradient
        self.optimiser.step()
        self.schedule.step()
        if radius > 0:
            self._relax(k, gradients[-1], radius)
        self.iteration += 1
        return True

    def _relax(self, k: int, gradient: Tensor, radius: float) -> None:
        """Move the starts of a batch downhill by a tenth of the ball, and back into it."""
        axes = tuple(range(1, gradient.ndim))
        size = partial(torch.linalg.vector_norm, dim=axes, keepdim=True)
        norms = [size(x).clamp(min=1e-30) for x in (gradient, self.starts[k])]
        moved = self.offsets[k] - 0.1 * radius * norms[1] * gradient / norms[0]
        length = size(moved).clamp(min=1e-30)
        self.offsets[k] = moved * (radius * norms[1] / length).clamp(max=1.0)

    def to_rows(self) -> Rows:
        """The best rows so far."""
        with torch.no_grad():
            for parameter, kept in zip(self.free, self.best, strict=True):
                parameter.copy_(kept)
        return self.moving.to_rows()

    def state(self) -> dict[str, Any]:
        """What `load` takes, in numbers and tensors."""
        return {
            "free": self._numbers(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": {"last_epoch": self.schedule.last_epoch},
            "offsets": self.offsets,
            "iteration": self.iteration,
            "waited": self.waited,
            "best": self.best,
            "best_loss": self.best_loss,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken."""
        with torch.no_grad():
            for parameter, kept in zip(self.free, state["free"], strict=True):
                parameter.copy_(kept)
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        self.offsets = state["offsets"]
        self.iteration, self.waited = state["iteration"], state["waited"]
        self.best, self.best_loss = state["best"], state["best_loss"]
