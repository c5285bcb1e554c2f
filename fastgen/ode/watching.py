"""What a callback of `odeint` sees: every step that was accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgen.common.display import displayed
from fastgen.kernels.runge_kutta.contract import Control, Count, Status, Workspace
from fastgen.ode.problem import StateLayout


@displayed
@dataclass(frozen=True)
class Accepted:
    """One step of the batch in which at least one sample moved; all tensors are copies.

    With joint steps there is one entry in place of the B of the samples.

    Args:
        index: of the step, from 0; those that were refused for all samples are not counted.
        times: float64 [B], where each sample is.
        moved: bool [B], which samples this step moved; others have ended or had it refused.
        state: like y0, at these times.
        slope: like y0, the last value of f at a state of the solution: at ``slope_state``, at
            ``slope_times`` [B]. With methods of varying steps that is the state itself (where an
            event ended a sample within a step, the step's end), with others the one before.
        slope_times, slope_state: see there.
    """

    index: int
    times: Tensor
    moved: Tensor
    state: Any
    slope: Any
    slope_times: Tensor
    slope_state: Any


@displayed
@dataclass(frozen=True)
class Attempt:
    """One attempted step of the samples that are still running; all tensors are copies.

    With joint steps there is one entry in place of the A of the samples.

    Args:
        samples: int64 [A], which.
        times: float64 [A], where each step begins.
        sizes: float64 [A], > 0 in either direction.
        taken: bool [A], whether the step was accepted; after one that was not the sample tries a
            shorter one.
        state: like y0, of these samples, where the step begins.
    """

    samples: Tensor
    times: Tensor
    sizes: Tensor
    taken: Tensor
    state: Any


@dataclass(frozen=True)
class AttemptObserver:
    """Calls a function with every `Attempt`, before anything moves."""

    state: StateLayout
    function: Callable[[Attempt], Any]

    def decided(self, w: Workspace, rows: int) -> None:
        """Tell it, if any sample is running."""
        count, control = w.count[:, :rows], w.control[:, :rows]
        running = (count[Count.STATUS] == Status.RUNNING) & (control[Control.STEP] != 0)
        at = running.nonzero().flatten()
        if len(at):
            times, sizes = control[Control.TIME][at], control[Control.STEP][at].abs()
            taken = count[Count.TAKEN][at] != 0
            tree = self.state.tree(w.y[at].clone())
            self.function(Attempt(count[Count.ROW][at], times, sizes, taken, tree))

    def moved(self, w: Workspace, rows: int) -> None:
        """Nothing is left to tell."""


class Watcher:
    """An observer that calls a function with every `Accepted`."""

    def __init__(self, state: StateLayout, callback: Callable[[Accepted], Any]) -> None:
        self.state, self.callback = state, callback
        self._count = 0
        self._taken = self._y = self._slope = self._times = torch.empty(0, device="cpu")

    def decided(self, w: Workspace, rows: int) -> None:
        """Keep which rows are about to move."""
        sample = w.count[Count.ROW]
        if not len(self._y):  # rows change places when ended ones are left out
            self._y, self._slope = torch.empty_like(w.y), torch.zeros_like(w.y)
            self._times = torch.empty_like(w.control[Control.TIME])
            self._y[sample], self._times[sample] = w.y, w.control[Control.TIME]
        count = w.count[:, :rows]
        self._taken = (count[Count.TAKEN] != 0) & (count[Count.STATUS] == Status.RUNNING)

    def moved(self, w: Workspace, rows: int) -> None:
        """Call the function if any row has moved."""
        sample = w.count[Count.ROW, :rows]
        self._y[sample], self._slope[sample] = w.y[:rows], w.k[0, :rows]
        self._times[sample] = w.control[Control.TIME, :rows]
        if bool(self._taken.any()):
            moved = torch.zeros(len(self._y), dtype=torch.bool, device=self._y.device)
            moved[sample] = self._taken
            self._call(self._times, moved, self._y, self._slope, self._times, self._y)

    def fixed(self, times: Tensor, y: Tensor, at: Tensor, point: Tensor, slope: Tensor) -> None:
        """A step of fixed length of all rows, from the point whose slope is given."""
        self._call(times, times != at, y.detach(), slope.detach(), at, point.detach())

    def _call(
        self, times: Tensor, moved: Tensor, y: Tensor, slope: Tensor, at: Tensor, point: Tensor
    ) -> None:
        tree = self.state.tree
        states = [tree(x.clone()) for x in (y, slope, point)]
        seen = Accepted(
            self._count,
            times.detach().clone(),
            moved,
            states[0],
            states[1],
            at.detach().clone(),
            states[2],
        )
        self._count += 1
        self.callback(seen)
