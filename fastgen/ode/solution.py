"""What a solve returns: states, what became of each sample, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastgen.common.display import Unquoted, displayed, extent, figure
from fastgen.common.tableau import Tableau
from fastgen.kernels.runge_kutta.contract import Status
from fastgen.ode.events import Crossing
from fastgen.ode.memory import Outcome
from fastgen.ode.problem import StateLayout
from fastgen.ode.steps import Steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


@displayed
@dataclass(frozen=True)
class Statistics:
    """What a solve cost.

    evaluations, accepted, rejected: int64 [B] (one entry with joint steps), a sample's own.
    calls: calls of f. rows: rows of all calls together, those of ended samples included where f
    was still handed them.
    """

    evaluations: Tensor
    accepted: Tensor
    rejected: Tensor
    calls: int
    rows: int

    def _facts(self) -> dict[str, Any]:
        names = ("evaluations", "accepted", "rejected")
        facts: dict[str, Any] = {name: extent(getattr(self, name)) for name in names}
        return {**facts, "calls": self.calls, "rows": self.rows}


@displayed
@dataclass(frozen=True)
class Solution:
    """The result of ``odeint(..., return_solution=True)``.

    ys: states [T, ...], in the structure of y0. status: int64 [B], values of `Status`. reached:
    float64 [B], the time where each sample ended: its last time, an event, or where it failed.
    stats: the cost. events: all crossings found, in order of discovery. t: the times of ys, [T] or
    [B, T]. steps: every attempted step, with ``execution=Execution(record_steps=True)``.
    """

    ys: Any
    status: Tensor
    reached: Tensor
    stats: Statistics
    events: tuple[Crossing, ...] = ()
    t: Tensor | None = None
    steps: Steps | None = None

    def _facts(self) -> dict[str, Any]:
        facts = {"ys": self.ys, "status": _states(self.status), "reached": extent(self.reached)}
        facts |= self.stats._facts()
        return facts | ({"events": len(self.events)} if self.events else {})

    def plot(self, ax: Axes | None = None, *, lines: int = 20, **style: Any) -> Figure | SubFigure:
        """Draw the states over time, and below them the steps' sizes where they were recorded.

        Args:
            ax: the axes whose place is taken; None makes a figure.
            lines: numbers of the state that are drawn at most, evenly over the batch; those of one
                sample have one colour. Steps are drawn of the same samples: accepted ones as dots,
                rejected ones as crosses.
            **style: for matplotlib's plot.

        Returns:
            The figure.

        Raises:
            ImportError: without matplotlib.

        Example:
            >>> f = lambda t, y: torch.cos(9 * t)[:, None] - y
            >>> recorded = fastgen.ode.Execution(record_steps=True)
            >>> y0, t = torch.ones(3, 1), torch.linspace(0, 3, 50)
            >>> found = fastgen.odeint(f, y0, t, return_solution=True, execution=recorded)
            >>> figure = found.plot()
        """
        from fastgen.ode.drawing import draw_solution

        return draw_solution(self, ax, lines, style)

    @property
    def success(self) -> Tensor:
        """Which samples reached their last time or a terminal event, bool [B]."""
        return (self.status == Status.DONE) | (self.status == Status.EVENT)


def _states(status: Tensor) -> Any:
    """How many samples ended how, "DONE: 7, MAX_STEPS: 1", where looking costs no wait."""
    counts = {s.name: figure(status == s, torch.sum) for s in Status}
    if any(isinstance(count, Tensor) for count in counts.values()):
        return status
    return Unquoted(", ".join(f"{count} {name}" for name, count in counts.items() if count))


REASONS = {
    Status.MAX_STEPS: "max_steps={max_steps} steps were not enough; allow more, or loosen rtol and "
    "atol",
    Status.UNDERFLOW: "the step became too small for its time; loosen rtol and atol, use float64, "
    "or look for a discontinuity or stiffness there",
    Status.NON_FINITE: "f is not finite there, however short the step",
}


def check(outcome: Outcome, max_steps: int) -> None:
    """Raise a RuntimeError that names the first sample that failed."""
    if bool((outcome.status == Status.DONE).all()):
        return
    failed = (outcome.status != Status.DONE) & (outcome.status != Status.EVENT)
    if bool(failed.any()):
        sample = int(failed.nonzero()[0])
        reason = REASONS[Status(int(outcome.status[sample]))].format(max_steps=max_steps)
        accepted, rejected = int(outcome.accepted[sample]), int(outcome.rejected[sample])
        raise RuntimeError(
            f"sample {sample} stopped at t={float(outcome.time[sample]):.9g} after "
            f"{accepted} accepted and {rejected} rejected steps "
            f"({int(failed.sum())} of {len(failed)} samples failed): {reason}; "
            "on_failure='return' gives the states so far"
        )


def outcome_of_fixed_steps(
    ys: Tensor, times: Tensor, steps: int, tableau: Tableau | None
) -> Outcome:
    """The outcome of so many steps of a method; tableau None is explicit Adams."""
    rows = ys.shape[1]
    whole = torch.full((rows,), steps, dtype=torch.int64, device=ys.device)
    done = torch.full_like(whole, Status.DONE)
    end = times.detach()[..., -1].expand(rows)
    calls = steps * (1 if tableau is None else tableau.stages)
    if tableau is None:  # the 3/8 rule starts it with three more each
        calls += 3 * min(steps, 3)
    none = torch.zeros_like(whole)
    return Outcome(ys, ys[-1], end, done, whole, none, end - end, calls, calls * rows)


def solution(
    state: StateLayout,
    ys: Tensor,
    outcome: Outcome,
    events: tuple[Crossing, ...] = (),
    per_step: int | None = None,
    first: int = 0,
    *,
    times: Tensor | None = None,
    steps: Steps | None = None,
) -> Solution:
    """A solution from rows.

    Args:
        state: the layout of rows.
        ys: [T, R, N], differentiable where that is wanted.
        outcome: what the solve left.
        events: crossings found.
        per_step: evaluations of an attempted step; None if every row had all of them.
        first: evaluations before the first step of a row.
        times: of the states.
        steps: the record of them, if it was asked for.
    """
    attempts = outcome.accepted + outcome.rejected
    if per_step is None:
        evaluations = torch.full_like(attempts, outcome.calls)
    else:
        evaluations = per_step * attempts + first * (attempts > 0)
    stats = Statistics(evaluations, outcome.accepted, outcome.rejected, outcome.calls, outcome.rows)
    t = None if times is None else times.detach()
    return Solution(state.tree(ys), outcome.status, outcome.time, stats, events, t, steps)
