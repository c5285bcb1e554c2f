"""A record of the steps of a solve: all that were attempted, with their sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastgen.common.display import displayed, extent, figure
from fastgen.kernels.runge_kutta.contract import Control, Count, Status, Workspace
from fastgen.ode.engine import Observer


@displayed
@dataclass(frozen=True)
class Steps:
    """The attempted steps of all samples, in the order in which they were made.

    sample: int64 [K]. time: float64 [K], where each began. size: float64 [K], > 0 in either
    direction. accepted: bool [K]; after a step that was not, the sample tries a shorter one.
    """

    sample: Tensor
    time: Tensor
    size: Tensor
    accepted: Tensor

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"attempts": len(self.sample), "size": extent(self.size)}
        return facts | {"accepted": figure(self.accepted, torch.sum)}


@dataclass
class StepLog:
    """An observer that keeps every attempted step."""

    _kept: list[tuple[Tensor, ...]] = field(default_factory=list)

    def decided(self, w: Workspace, rows: int) -> None:
        """Keep the step of each sample that has not ended."""
        count, control = w.count[:, :rows], w.control[:, :rows]
        at = ((count[Count.STATUS] == Status.RUNNING) & (control[Control.STEP] != 0)).nonzero()
        at = at.flatten()
        taken = count[Count.TAKEN][at] != 0
        times, sizes = control[Control.TIME][at], control[Control.STEP][at].abs()
        self._kept.append((count[Count.ROW][at], times, sizes, taken))

    def moved(self, w: Workspace, rows: int) -> None:
        """Nothing is left to see."""

    def steps(self, device: torch.device) -> Steps:
        """What was kept."""
        if not self._kept:
            real = torch.zeros(0, dtype=torch.float64, device=device)
            return Steps(real.long(), real, real, real.bool())
        return Steps(*(torch.cat(parts) for parts in zip(*self._kept, strict=True)))


@dataclass(frozen=True)
class Several:
    """Observers, one after another."""

    observers: tuple[Observer, ...]

    def decided(self, w: Workspace, rows: int) -> None:
        """Each of them."""
        for observer in self.observers:
            observer.decided(w, rows)

    def moved(self, w: Workspace, rows: int) -> None:
        """Each of them."""
        for observer in self.observers:
            observer.moved(w, rows)
