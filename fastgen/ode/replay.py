"""Gradients through the solver: its accepted steps once more, differentiably.

The first pass runs on the kernels and only records, for every attempted step, which samples it
moved, from when and how far. The second repeats the moves alone: rejected steps leave no trace on
the tape. Step sizes count as constants; times of outputs and of the start do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import comb
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as checkpointed

from fastgen.common.checks import check_at_least, check_choice
from fastgen.common.tableau import Tableau
from fastgen.common.transforms import traced
from fastgen.kernels.runge_kutta.contract import Control, Count, Status, Workspace
from fastgen.ode.fixed import combined, runge_kutta_step
from fastgen.ode.memory import Outcome
from fastgen.ode.problem import Field

CHECKPOINTS = ("none", "step", "binomial")


@dataclass(frozen=True)
class Through:
    """Gradients through the accepted steps, as autograd takes them; differentiable again.

    Args:
        checkpoint: what is kept for the way back: "none" leaves out nothing, "step" keeps the
            states between steps, "binomial" at most ``snapshots`` states (Griewank and Walther
            2000). What was not kept is computed once more.
        snapshots: states that "binomial" keeps.

    Raises:
        ValueError: naming the argument.
    """

    checkpoint: str = "none"
    snapshots: int = 8

    def __post_init__(self) -> None:
        check_choice("checkpoint", self.checkpoint, CHECKPOINTS)
        check_at_least("snapshots", self.snapshots, 1)


@dataclass(frozen=True)
class Move:
    """One step of some samples: which (int64 [A]), their time and step, and outputs [A] passed."""

    samples: Tensor
    time: Tensor
    step: Tensor
    first_output: Tensor
    last_output: Tensor


@dataclass
class Recorder:
    """An observer that keeps the moves."""

    moves: list[Move] = field(default_factory=list)
    _before: tuple[Tensor, ...] = ()

    def decided(self, w: Workspace, rows: int) -> None:
        """Keep what `moved` overwrites."""
        count, control = w.count[:, :rows], w.control[:, :rows]
        taken = (count[Count.TAKEN] != 0) & (count[Count.STATUS] == Status.RUNNING)
        at = taken.nonzero().flatten()
        kept = (count[Count.ROW], control[Control.TIME], control[Control.STEP])
        self._before = (at, *(x[at] for x in (*kept, count[Count.CURSOR])))

    def moved(self, w: Workspace, rows: int) -> None:
        """Record the move."""
        at, samples, time, step, cursor = self._before
        if len(at):
            after = w.count[Count.CURSOR, :rows][at]
            self.moves.append(Move(samples, time, step, cursor, after))


def replay(
    f: Field,
    y: Tensor,
    times: Tensor,
    tableau: Tableau,
    recorder: Recorder,
    outcome: Outcome,
    way: Through,
) -> Tensor:
    """The states [T, R, N], differentiable in y, in times and in all that f depends on."""
    moves, rows = recorder.moves, y.shape[0]
    known = times.detach()
    own_times = times.expand(rows, -1)
    start = own_times[:, 0]
    varying = times.requires_grad or traced(times)
    everyone = torch.arange(rows, device=y.device)
    places = [_passed(move) for move in moves]

    def step(n: int, y: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(y, k_0) after move n, and the outputs passed."""
        move, (row, output) = moves[n], places[n]
        whole = len(move.samples) == rows and bool((move.samples == everyone).all())
        # Without f's promise to take some samples only, it is called with all of them, and those
        # that did not move make a step of length 0.
        only = whole or f.compact
        part, k, h, t = y, slope, move.step, move.time
        if not whole and only:
            part, k = y[move.samples], slope[move.samples]
        elif not only:
            h = torch.zeros(rows, dtype=h.dtype, device=h.device)
            t = known.expand(rows, -1)[:, -1].clone()
            h, t = (
                h.index_copy(0, move.samples, move.step),
                t.index_copy(0, move.samples, move.time),
            )
        samples = move.samples if only else everyone
        if varying:  # the start's shift moves every later time
            t = t + (start - start.detach())[samples]
        new, slopes = _step(f, tableau, t, h, part, k, samples if f.told else None)
        at = row if only else move.samples[row]
        who = move.samples[row]
        theta = (own_times[who, output] - t[at]) / h[at]
        found = _interpolated(tableau, theta, h[at], part[at], [s[at] for s in slopes])
        # An output at the step's end is its state, as in the first pass. Where times need
        # gradients it stays the interpolant, whose slope there is f.
        if not varying:
            found = torch.where((theta == 1)[:, None], new[at], found)
        if whole:
            return new, slopes[-1], found
        if not only:
            new, slopes[-1] = new[move.samples], slopes[-1][move.samples]
        return (
            y.index_copy(0, move.samples, new),
            slope.index_copy(0, move.samples, slopes[-1]),
            found,
        )

    # Outputs go through checkpoints as results of the run, and are put into order at the end.
    outputs: dict[int, Tensor] = {}

    def run(begin: int, end: int, y: Tensor, slope: Tensor) -> tuple[Tensor, ...]:
        found = []
        for n in range(begin, end):
            y, slope, here = step(n, y, slope)
            found.append(here)
        return y, slope, *found

    def keep(begin: int, done: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        outputs.update({begin + i: x for i, x in enumerate(done[2:])})
        return done[0], done[1]

    # The slope at the end of a step is the first one of the next: one is handed from move to move.
    slope = f.call(start.to(y.dtype), y, everyone if f.told else None) if moves or varying else y
    at_start, first_slope = y, slope
    if way.checkpoint == "none":
        y, slope = keep(0, run(0, len(moves), y, slope))
    elif way.checkpoint == "step":
        for n in range(len(moves)):
            y, slope = keep(n, _saved(run, n, n + 1, y, slope))
    else:
        y, slope = keep(0, _binomial(run, 0, len(moves), y, slope, way.snapshots))
    ys = _assembled(at_start, y, known, outcome, places, moves, outputs)
    if varying:  # an output at the start is y0 + (t - t_0) f
        shift = torch.where(own_times == start[:, None], own_times - start[:, None], 0.0)
        ys = ys + shift.T.to(y.dtype)[:, :, None] * first_slope
    return ys


def _passed(move: Move) -> tuple[Tensor, Tensor]:
    """Of every output that a move passes its row in the move, and its number in the times."""
    count = move.last_output - move.first_output
    row = torch.arange(len(count), device=count.device).repeat_interleave(count)
    offset = torch.arange(int(count.sum()), device=count.device)
    offset = offset - (count.cumsum(0) - count).repeat_interleave(count)
    return row, move.first_output.repeat_interleave(count) + offset


def _saved(run: Callable[..., Any], *arguments: Any) -> tuple[Tensor, ...]:
    """run(*arguments) of which only the arguments are kept for the way back."""
    found: tuple[Tensor, ...] = checkpointed(
        run, *arguments, use_reentrant=False, preserve_rng_state=False
    )
    return found


def _binomial(
    run: Callable[..., Any], begin: int, end: int, y: Tensor, slope: Tensor, snapshots: int
) -> tuple[Tensor, ...]:
    """Moves begin .. end - 1 with at most `snapshots` states kept at any time.

    The first part is kept by its beginning alone and, on the way back, cut up in the same way.
    Its length balances both parts: with s snapshots and r repetitions at most C(s + r, s) steps
    can be reversed (Griewank and Walther 2000, revolve).
    """
    length = end - begin
    if length <= 1:
        return _saved(run, begin, end, y, slope)
    if snapshots == 1:
        cut = length - 1
    else:
        repetitions = 1
        while comb(snapshots + repetitions, snapshots) < length:
            repetitions += 1
        cut = min(length - 1, max(1, length - comb(snapshots + repetitions - 1, snapshots - 1)))

    def head(y: Tensor, slope: Tensor) -> tuple[Tensor, ...]:
        return _binomial(run, begin, begin + cut, y, slope, snapshots)

    first = _saved(head, y, slope)
    # The state between the parts is a snapshot: one fewer is left for the second part.
    rest = _binomial(run, begin + cut, end, first[0], first[1], max(1, snapshots - 1))
    return rest[0], rest[1], *first[2:], *rest[2:]


def _step(
    f: Field,
    tableau: Tableau,
    t: Tensor,
    h: Tensor,
    y: Tensor,
    first: Tensor,
    samples: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    if samples is None:
        return runge_kutta_step(f, tableau, t, h, y, first)
    slopes, inner = [first], y
    for i in range(1, tableau.stages):
        inner = combined(y, h, tableau.a[i], slopes)
        slopes.append(f.call((t + tableau.c[i] * h).to(y.dtype), inner, samples))
    return inner, slopes


def _interpolated(
    tableau: Tableau, theta: Tensor, h: Tensor, y: Tensor, slopes: list[Tensor]
) -> Tensor:
    """y(t + theta h) of rows [A]."""
    for row, k in zip(tableau.dense, slopes, strict=True):
        if row[0] or row[1]:  # other stages have no part in the interpolant, as in the kernels
            b = torch.full_like(theta, row[-1])
            for p in reversed(row[:-1]):
                b = b * theta + p
            y = y + (h * (b * theta)).to(y.dtype)[:, None] * k
    return y


def _assembled(
    first: Tensor,
    last: Tensor,
    times: Tensor,
    outcome: Outcome,
    places: list[tuple[Tensor, Tensor]],
    moves: list[Move],
    outputs: dict[int, Tensor],
) -> Tensor:
    """Outputs in their places; those at the start are y0, those never reached the last state."""
    rows, count = first.shape[0], times.shape[-1]
    # Where each output comes from: row 0 .. R - 1 of first, then of last, then all outputs.
    source = torch.arange(rows, device=first.device).expand(count, -1).clone()
    ended = (outcome.status != Status.DONE)[None, :] & (
        (times.expand(rows, -1) != times.expand(rows, -1)[:, :1]).T
    )
    source = torch.where(ended, source + rows, source)
    parts, total = [first, last], 2 * rows
    for n, (row, output) in enumerate(places):
        here = outputs[n]
        if len(row):
            source[output, moves[n].samples[row]] = total + torch.arange(
                len(row), device=first.device
            )
            parts.append(here)
            total += len(row)
    return torch.cat(parts)[source]
