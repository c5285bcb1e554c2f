"""A fit of the whole run at once: the free numbers of moving rows against the teacher's ends.

What both optimisers share: the losses, the run of moving rows, and the best numbers so far. Rows
over a whole history are the bespoke non-stationary solvers of Shaul et al. 2024, arXiv 2403.01329;
"log" is the loss of their section 4 on each sample's end. With what="grid" the times alone move,
under the solver's own coefficients (as AYS, arXiv 2404.14507, GITS, arXiv 2405.11326, and
OptimalSteps, arXiv 2503.21774, choose them).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from fastgen.fitting.moving import Moving
from fastgen.fitting.rows import Rows
from fastgen.fitting.study import Batch, Study

Features = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
Values = tuple[Sequence[Any], Sequence[Tensor]]
_LEAST = 1e-12  # of a mean square, below which it is none


class RowLoss(NamedTuple):
    """The mean over samples of f(s), s each one's mean square of x - y, and df/ds."""

    f: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Of ends x against y, [B, ...]."""
        return self.f(row_squares(x, y)).mean()


LOSSES: dict[str, RowLoss] = {
    # A sample counts by factors, whatever its error.
    "log": RowLoss(lambda s: (s + _LEAST).log(), lambda s: 1 / (s + _LEAST)),
    # Between the other two.
    "norm": RowLoss(lambda s: (s + _LEAST).sqrt(), lambda s: 0.5 * (s + _LEAST).rsqrt()),
    # Samples that end elsewhere count most.
    "squared": RowLoss(lambda s: s, torch.ones_like),
}


def row_squares(x: Tensor, y: Tensor) -> Tensor:
    """Mean squares of each sample's difference, [B], in float64."""
    return (x.double() - y.double()).flatten(1).square().mean(1)


@dataclass(frozen=True)
class Descent:
    """How the whole run is fitted; see `fastgen.tune`."""

    iterations: int = 300
    rate: float = 0.3
    loss: str | Loss = "norm"
    features: Features | None = None
    relaxation: float = 0.0
    patience: int = 5
    checkpoint: bool = False

    def compared(self, x: Tensor) -> Tensor:
        """What of the ends is compared, [B, ...]."""
        return x if self.features is None else self.features(x)

    def error(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a batch's end states against the teacher's."""
        loss = LOSSES[self.loss] if isinstance(self.loss, str) else self.loss
        return loss(self.compared(x), self.compared(y))


class Unrolled:
    """The run of moving rows on a batch, recorded for autograd where it is on."""

    def __init__(self, study: Study, moving: Moving, descent: Descent) -> None:
        self.study, self.moving, self.descent = study, moving, descent

    def __call__(self, batch: Batch, start: Tensor) -> Tensor:
        """The end states from initial states."""
        x = start
        for x in self.steps(batch, start, self.moving.values(), []):  # noqa: B007
            pass
        return x

    def steps(
        self, batch: Batch, x: Tensor, values: Values, past: list[Tensor]
    ) -> Iterator[Tensor]:
        """The states after each row that is left.

        Args:
            batch: whose conditioning is used.
            x: the states before row ``len(past)``.
            values: of `Moving.values`.
            past: the predictions of all rows before; those of the rows that run are added.
        """
        times, coefficients = values
        for k in range(len(past), len(coefficients)):
            t, c = times[k], coefficients[k]

            def step(x: Tensor, *past: Tensor, t: Any = t, c: Tensor = c) -> tuple[Tensor, Tensor]:
                u = self._prediction(x, t, batch)
                return combined(c, x, (*past, u)), u

            if self.descent.checkpoint and torch.is_grad_enabled():
                x, u = recompute(step, x, *past, use_reentrant=False)
            else:
                x, u = step(x, *past)
            past.append(u)
            yield x

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


def combined(c: Tensor, x: Tensor, past: Sequence[Tensor]) -> Tensor:
    """c_0 x + sum_j c_{j+1} u_j."""
    moved = c.to(x.device, x.dtype)
    new = moved[0] * x
    for weight, value in zip(moved[1:], past, strict=True):
        new = new + weight * value
    return new


class Search(ABC):
    """The state of a fit of the whole run: everything that a resumed one needs.

    ``best`` are the free numbers with the least loss on the held-out batches so far, ``best_loss``
    that loss, ``waited`` the looks since, and ``settled`` says that no iteration would help.
    ``every`` so many iterations it is time to `look`.
    """

    every: ClassVar[int]

    def __init__(
        self, study: Study, moving: Moving, descent: Descent, train: Sequence[Batch]
    ) -> None:
        self.study, self.moving, self.descent, self.train = study, moving, descent, train
        self.groups = moving.parameters
        self.free = [p for group in self.groups.values() for p in group]
        self.run = Unrolled(study, moving, descent)
        self.iteration, self.waited, self.settled = 0, 0, False
        self.best, self.best_loss = self.numbers(), math.inf

    @abstractmethod
    def advance(self) -> bool:
        """One iteration; False, and nothing moved, where it is not finite."""

    def start(self, batch: Batch) -> Tensor:
        """The initial states of a batch."""
        return batch.z * self.study.schedule.sigma(self.moving.rows.times[0])

    def numbers(self) -> list[Tensor]:
        """Copies of the free numbers."""
        return [p.detach().clone() for p in self.free]

    @torch.no_grad()
    def put(self, numbers: Sequence[Tensor]) -> None:
        """Set the free numbers."""
        for parameter, kept in zip(self.free, numbers, strict=True):
            parameter.copy_(kept)

    @torch.no_grad()
    def loss(self, batches: Sequence[Batch]) -> float:
        """The loss of the run with the present numbers."""
        losses = [self.descent.error(self.run(b, self.start(b)), b.targets[-1]) for b in batches]
        return float(sum(losses) / len(losses))

    def look(self, held_out: Sequence[Batch]) -> bool:
        """Keep the numbers if they are the best so far; whether it is worth to go on."""
        loss = self.loss(held_out)
        if loss < self.best_loss:
            self.best, self.best_loss, self.waited = self.numbers(), loss, 0
        else:
            self.waited += 1
        return math.isfinite(loss) and self.waited < self.descent.patience and not self.settled

    def to_rows(self) -> Rows:
        """The best rows so far."""
        self.put(self.best)
        return self.moving.to_rows()

    def state(self) -> dict[str, Any]:
        """What `load` takes, in numbers and tensors."""
        return {
            "free": self.numbers(),
            "iteration": self.iteration,
            "waited": self.waited,
            "settled": self.settled,
            "best": self.best,
            "best_loss": self.best_loss,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken."""
        self.put(state["free"])
        self.iteration, self.waited = state["iteration"], state["waited"]
        self.settled, self.best = state["settled"], state["best"]
        self.best_loss = state["best_loss"]
