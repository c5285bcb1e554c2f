"""What callbacks, trajectories and progress bars see of error-controlled runs of a flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import per_row
from fastgen.model.model import Model
from fastgen.ode import Accepted
from fastgen.sampling.observation import Evaluation, Step, TimeBar

Callback = Callable[[Step], Any]
WITHOUT_GRADIENTS = (
    "trajectory=True: the states after accepted steps have no gradients; name times, "
    "timesteps=[...], whose states have"
)


class FlowSteps:
    """Called with every `Accepted` of a run from time ``start`` to ``end``.

    Args:
        model: what is integrated.
        start, end: the run's times.
        name: of the method, for the progress bar.
        callback: called with a `Step` for each.
        keep: the initial states [B, ...], where all are to be kept.
        progress: whether to show a bar.
        quantity: which prediction of the model the slopes are.
    """

    def __init__(
        self,
        model: Model,
        start: float,
        end: float,
        name: str,
        *,
        callback: Callback | None = None,
        keep: Tensor | None = None,
        progress: bool = False,
        quantity: str = "velocity",
    ) -> None:
        self.model, self.callback, self.quantity = model, callback, quantity
        self.rising = end > start
        self.first = keep
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.bar = TimeBar(start, end, name) if progress else None

    @property
    def wanted(self) -> bool:
        """Whether anybody looks."""
        return not (self.callback is None and self.first is None and self.bar is None)

    def __call__(self, seen: Accepted) -> None:
        """Show, keep and hand on one step; a state of several parts begins with the flow's."""
        state, slope, point = (
            x[0] if isinstance(x, tuple) else x for x in (seen.state, seen.slope, seen.slope_state)
        )
        count = len(state)
        times, at = (x.expand(count) for x in (seen.times, seen.slope_times))
        moved = seen.moved.expand(count)
        behind = float(times.min() if self.rising else times.max())
        if self.first is not None:
            self.kept.append((moved, state[moved]))
        if self.bar is not None:
            self.bar.show(behind, seen.index + 1)
        if self.callback is not None:
            last = self._evaluation(at, point, slope)
            self.callback(Step(seen.index, behind, state, last, times, moved))
            last.end()

    def _evaluation(self, at: Tensor, point: Tensor, slope: Tensor) -> Evaluation:
        known = self.model.parametrisation

        def read() -> tuple[Tensor, Tensor]:
            p, q = (_factor(x, point) for x in known.conversion(self.quantity, at))
            return (slope - p * point) / q, point

        def data(output: Tensor, state: Tensor) -> Tensor:
            p, q = (_factor(x, state) for x in known.conversion("data", at))
            return p * state + q * output

        return Evaluation(at, read, data)

    def close(self) -> None:
        """The run is over."""
        if self.bar is not None:
            self.bar.close()

    def states(self) -> Tensor:
        """[n + 1, B, ...]: row i the state of each sample after i accepted steps of its own.

        n is the largest number of steps of any sample; one that had fewer stays where it ended.
        """
        first = self.first
        assert first is not None
        count = torch.zeros(len(first), dtype=torch.int64, device=first.device)
        for moved, _ in self.kept:
            count += moved
        rows = int(count.max()) + 1 if len(count) else 1
        found = first.detach().expand(rows, *first.shape).clone()
        here = torch.zeros_like(count)
        for moved, states in self.kept:
            here += moved
            found[here[moved], moved.nonzero().flatten()] = states
        for i in range(1, rows):
            ended = count < i
            found[i, ended] = found[i - 1, ended]
        return found


def _factor(value: float | Tensor, like: Tensor) -> float | Tensor:
    return per_row(value.to(like.dtype), like) if isinstance(value, Tensor) else value
