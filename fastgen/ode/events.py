"""Events: times at which a function of the state changes its sign."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastgen.common.checks import check_nonnegative
from fastgen.common.display import displayed
from fastgen.common.unwritten import unwritten
from fastgen.kernels.runge_kutta.contract import Control, Count, Status, Workspace
from fastgen.kernels.runge_kutta.reference import ReferenceOperations
from fastgen.ode.problem import StateLayout


@displayed
@dataclass(frozen=True)
class Event:
    """What to look for: changes of sign of a function.

    Args:
        function: (t, y) -> [B] or [B, E], called like f. An event is where a value becomes 0 or
            has the other sign; of a value that is 0 at the start, to leave it is none.
        terminal: whether a sample ends at its first event. All later outputs are its state there.
        tolerance: width of an event's bracket in time.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    function: Callable[..., Any]
    terminal: bool = True
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"event: expected a callable event(t, y), got {self.function!r}")
        check_nonnegative("tolerance", self.tolerance)


# Where in a step that starts at a value of 0 its sign is looked at.
LATER = 1 / 16


@displayed
@dataclass(frozen=True)
class Crossing:
    """An event found: the sample, which of the values crossed, when, and the state there."""

    sample: int
    index: int
    time: float
    state: Any


@dataclass
class EventObserver:
    """Looks for sign changes over each accepted step and finds them on the step's interpolant.

    The root is found by the Illinois variant of regula falsi (Dowell and Jarratt 1971), every
    sample by itself, until its bracket is shorter than the tolerance. A terminal event ends its
    sample at the first crossing.

    A value that becomes 0 has crossed there, once, whatever it does next; one that is 0 at the
    start has not. Two crossings within one step cancel and are not seen; `max_step` bounds steps.
    """

    event: Event
    state: StateLayout
    found: list[Crossing] = field(default_factory=list)
    _before: Tensor | None = None
    _pending: list[tuple[int, int, Tensor, Tensor]] = field(default_factory=list)

    def value(self, t: Tensor, y: Tensor) -> Tensor:
        """The event's values at times [A] and rows [A, N]: [A, E]."""
        time = t.to(y.dtype)
        joint = self.state.joint
        function = self.event.function
        found = unwritten("event", function, time[0] if joint else time, self.state.tree(y))
        if not isinstance(found, Tensor) or not found.is_floating_point():
            kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
            raise TypeError(
                f"event: expected a tensor of real numbers, whose changes of sign are events, got "
                f"{kind}"
            )
        if joint:
            return found.reshape(1, -1)
        if found.ndim not in (1, 2) or found.shape[0] != y.shape[0]:
            raise ValueError(
                f"event: expected values [{y.shape[0]}] or [{y.shape[0]}, E], got "
                f"{tuple(found.shape)}"
            )
        return found.reshape(y.shape[0], -1)

    def decided(self, w: Workspace, rows: int) -> None:
        """Find crossings of the steps that are about to be taken."""
        control, count = w.control[:, :rows], w.count[:, :rows]
        sample, t, h = count[Count.ROW], control[Control.TIME], control[Control.STEP]
        if self._before is None:
            first = self.value(t, w.y[:rows])
            self._before = first.new_zeros(w.y.shape[0], first.shape[1])
            self._before[sample] = first
        old, new = self._before[sample], self.value(t + h, w.y_new[:rows])
        taken = (count[Count.TAKEN] != 0) & (count[Count.STATUS] == Status.RUNNING)
        crossed = taken[:, None] & _opposite(old, new)
        left = taken[:, None] & (old == 0)
        self._pending = []
        if bool((crossed | left).any()):
            low = torch.zeros_like(old, dtype=torch.float64)
            if bool(left.any()):
                # From 0 the sign is that of a moment later. To become 0 was reported already, or
                # the solve began there.
                theta = torch.full_like(t, LATER)
                after = self.value(t + theta * h, _interpolating(w, rows).interpolate(theta))
                old, low = torch.where(left, after, old), torch.where(left, LATER, low)
                crossed = taken[:, None] & _opposite(old, new)
            if bool(crossed.any()):
                self._locate(w, rows, crossed, low, old, new)
        self._before[sample] = torch.where(taken[:, None], new, old)

    def _locate(
        self,
        w: Workspace,
        rows: int,
        crossed: Tensor,
        start: Tensor,
        old: Tensor,
        new: Tensor,
    ) -> None:
        interpolate = _interpolating(w, rows)
        t, h = w.control[Control.TIME, :rows], w.control[Control.STEP, :rows]
        roots = torch.full(crossed.shape, torch.inf, dtype=torch.float64, device=t.device)
        for e in crossed.any(0).nonzero().flatten().tolist():
            low, high = start[:, e], torch.ones_like(t)
            f_low, f_high = old[:, e].double(), new[:, e].double()
            for _ in range(100):
                wide = (high - low) * h.abs() > self.event.tolerance
                if not bool((crossed[:, e] & wide & (f_high != 0)).any()):
                    break
                middle = high - f_high * (high - low) / (f_high - f_low)
                inside = (middle > low) & (middle < high)
                middle = torch.where(inside, middle, (low + high) / 2)
                # Half a tolerance off the root, so that the bracket closes from both sides.
                nudge = 0.5 * self.event.tolerance / h.abs().clamp(min=1e-300)
                nearer = torch.where(middle - low < high - middle, nudge, -nudge)
                moved = middle + nearer
                middle = torch.where((moved > low) & (moved < high), moved, middle)
                f = self.value(t + middle * h, interpolate.interpolate(middle))[:, e].double()
                same = torch.sign(f) == torch.sign(f_high)
                f_low = torch.where(same, f_low / 2, f)
                low = torch.where(same, low, middle)
                f_high, high = torch.where(same, f, f_high / 2), torch.where(same, middle, high)
                exact = f == 0
                high, f_high = torch.where(exact, middle, high), torch.where(exact, f, f_high)
            roots[:, e] = torch.where(crossed[:, e], high, roots[:, e])
        if self.event.terminal:
            first = roots.argmin(1, keepdim=True)
            crossed = crossed & torch.zeros_like(crossed).scatter(1, first, True)
        for r, e in crossed.nonzero().tolist():
            theta = torch.where(torch.isfinite(roots[:, e]), roots[:, e], 1.0)
            y = w.y_new[r] if theta[r] == 1 else interpolate.interpolate(theta)[r]
            self._pending.append((r, e, t[r] + theta[r] * h[r], y.clone()))

    def moved(self, w: Workspace, rows: int) -> None:
        """Record them; end the samples of terminal ones there."""
        for r, e, time, y in self._pending:
            sample = int(w.count[Count.ROW, r])
            state = self.state.tree(y[None])
            if not self.state.joint:
                state = pytree.tree_map(lambda x: x[0], state)
            self.found.append(Crossing(sample, e, float(time), state))
            if self.event.terminal:
                w.count[Count.STATUS, r] = Status.EVENT
                w.control[Control.TIME, r] = time
                w.control[Control.STEP, r] = 0.0
                w.y[r] = y


def _opposite(old: Tensor, new: Tensor) -> Tensor:
    """Whether a value that is not 0 becomes 0 or changes its sign; of NaN nothing is known."""
    return ((old > 0) & (new <= 0)) | ((old < 0) & (new >= 0))


def _interpolating(w: Workspace, rows: int) -> ReferenceOperations:
    operations = ReferenceOperations(w)
    operations.rows = rows
    return operations
