"""The memory of a solve; that of small ones which are over serves later ones of their kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgen.common.idle import Idle
from fastgen.common.step_size import StepSize
from fastgen.common.tableau import Tableau
from fastgen.kernels.runge_kutta.contract import Control, Count, FusedOperations, Status, Workspace
from fastgen.ode.problem import Field, StateLayout

# Elements of a state up to which memory outlives a solve: to make it takes longer than many a small
# solve.
SMALL = 2**14


@dataclass
class Outcome:
    """What a solve leaves, by sample: R samples.

    ys: [T, R, N]. y [R, N] and time [R]: where each ended. status, accepted, rejected: int64 [R].
    proposal: the next step's size, float64 [R]. calls, rows: evaluations of the field, and of
    single rows.
    """

    ys: Tensor
    y: Tensor
    time: Tensor
    status: Tensor
    accepted: Tensor
    rejected: Tensor
    proposal: Tensor
    calls: int
    rows: int


def workspace(
    y: Tensor,
    state: StateLayout,
    times: Tensor,
    tableau: Tableau,
    step_size: StepSize,
    given: bool,
    compact: bool,
) -> Workspace:
    """New memory for a solve from y [R, N]; given: whether the first step's size is."""
    return Workspace.allocate(
        y,
        tableau.matrix,
        tableau.nodes,
        tableau.errors,
        tableau.polynomials,
        state.segment_ends,
        times,
        step_size,
        compact,
        given,
        state.live,
    )


class FusedSolve:
    """A solve by `FusedOperations` on a workspace of its own.

    Small ones are kept when they are over.
    """

    idle: Idle[tuple[Any, ...], FusedSolve] = Idle(8)

    def __init__(self, key: tuple[Any, ...] | None, w: Workspace, ops: FusedOperations) -> None:
        self.w, self.ops = w, ops
        self._key = key

    @classmethod
    def of(
        cls,
        make: Callable[[Workspace], FusedOperations],
        y: Tensor,
        state: StateLayout,
        times: Tensor,
        tableau: Tableau,
        step_size: StepSize,
        given: bool,
        compact: bool,
    ) -> FusedSolve:
        """Memory with these states and times in it, an earlier solve's where there is some."""
        rows, elements = y.shape
        options = step_size, given, compact
        small = y.numel() <= SMALL and state.live is None
        key = (make, y.dtype, rows, tuple(state.sizes), times.shape, *options, tableau)
        if small and (found := cls.idle.take(key)) is not None:
            found.w.y.copy_(y)
            found.w.output_times.copy_(times)
            found.w.ys = y.new_empty(times.shape[-1], rows, elements)
            return found
        if not small:
            w = workspace(y, state, times, tableau, *options)
            return cls(None, w, make(w))
        with torch.inference_mode(False):  # for later solves in whatever mode
            # Later ones write their times there, and outputs are a result.
            w = workspace(y, state, times.clone(), tableau, *options)
        found = cls(key, w, make(w))
        w.ys = y.new_empty(times.shape[-1], rows, elements)
        return found

    def bound(self, field: Field, t: Tensor, y: Tensor) -> tuple[Callable[..., Any], Tensor, Any]:
        """The field on the rows in use; see `Field.bound`."""
        rows = self.w.count[Count.ROW, : len(t)].clone() if field.told else None
        return field.bound(t, y, rows)

    def outcome(self, calls: int, rows: int) -> Outcome:
        """Results by sample; this memory then is another solve's."""
        w, kept = self.w, self._key is not None
        found = finished(w, calls, rows, kept)
        if self._key is not None:
            w.ys = w.y.new_empty(0)
            self.idle.keep(self._key, self)
        return found


def finished(w: Workspace, calls: int, rows: int, copied: bool = False) -> Outcome:
    """Results by sample; outputs that were not reached hold the last state.

    copied: but for the outputs in memory that is not the workspace's.
    """
    control, count, y, ys = w.control, w.count, w.y, w.ys
    if w.compact:  # rows changed places when ended ones were left out: back to the samples' order
        order = torch.empty_like(count[Count.ROW])
        order[count[Count.ROW]] = torch.arange(len(order), device=order.device)
        control, count, y = control[:, order], count[:, order], y[order]
    elif copied:
        control, count, y = control.clone(), count.clone(), y.clone()
    status, time = count[Count.STATUS], control[Control.TIME]
    short = status != Status.DONE
    if bool(short.any()):
        times = w.output_times.expand(len(y), -1)
        ahead = torch.sign(control[Control.END] - times[:, 0])
        late = short[:, None] & ((times - time[:, None]) * ahead[:, None] > 0)
        ys = torch.where(late.T[:, :, None], y, ys)
    return Outcome(
        ys,
        y,
        time,
        status,
        count[Count.ACCEPTED],
        count[Count.REJECTED],
        control[Control.PROPOSAL].abs(),
        calls,
        rows,
    )
