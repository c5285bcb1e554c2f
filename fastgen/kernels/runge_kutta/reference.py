"""Error-controlled Runge-Kutta steps in plain PyTorch: the contract of all backends."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgen.common.rounding import power, square_root
from fastgen.common.step_size import LEAST_ERROR, fitted
from fastgen.kernels.runge_kutta.contract import (
    FEWER_ROWS,
    FINISHED,
    LANES,
    Control,
    Count,
    Status,
    StepByStep,
    Workspace,
)


def weighted_sum(start: Tensor | None, weights: list[Tensor], terms: list[Tensor]) -> Tensor:
    """start + sum_j w_j k_j from left to right; each w_j is [R], rounded to the terms' dtype."""
    total = torch.zeros_like(terms[0]) if start is None else start
    for w, k in zip(weights, terms, strict=True):
        total = total + w.to(k.dtype)[:, None] * k
    return total


def relative_error(x: Tensor, y: Tensor, z: Tensor, rtol: Tensor, atol: Tensor) -> Tensor:
    """x / (atol + rtol max(|y|, |z|)) [R, N], 0 where x is 0."""
    scale = atol.to(y.dtype)[:, None] + rtol.to(y.dtype)[:, None] * torch.maximum(y.abs(), z.abs())
    return torch.where(x == 0, 0.0, x / scale)


def error_norm(
    x: Tensor,
    y: Tensor,
    z: Tensor,
    rtol: Tensor,
    atol: Tensor,
    segment_ends: list[int],
    live: Tensor,
) -> Tensor:
    """max over segments of sqrt(mean (x / scale)^2), scale = atol + rtol max(|y|, |z|); [R].

    The squares are float64, summed by `LANES` lanes that are then halved: no sum depends on the
    number of rows. x = 0 has ratio 0 even where the scale is 0. The mean is over the live elements,
    [G] or [R, G] of them; padding is 0.
    """
    ratio = relative_error(x, y, z, rtol, atol).double()
    norms, begin = [torch.zeros_like(rtol)], 0
    for count, end in zip(live.unbind(-1), segment_ends, strict=True):
        if end > begin:
            mean = lane_sum(ratio[:, begin:end].square()) / count
            norms.append(torch.where(count == 0, 0.0, square_root(mean)))
        begin = end
    return torch.stack(norms).amax(0)


def lane_sum(x: Tensor) -> Tensor:
    """The sum over axis 1 in the order of the contract."""
    lanes = min(LANES, 1 << max(x.shape[1] - 1, 0).bit_length())
    pieces = list(torch.split(x, lanes, 1))
    pieces[-1] = torch.nn.functional.pad(pieces[-1], (0, lanes - pieces[-1].shape[1]))
    total: Tensor = pieces[0]
    for piece in pieces[1:]:
        total = total + piece
    while lanes > 1:
        lanes //= 2
        total = total[:, :lanes] + total[:, lanes:]
    return total[:, 0]


class ReferenceOperations(StepByStep):
    """See `fastgen.kernels.runge_kutta.contract`."""

    def __init__(self, workspace: Workspace) -> None:
        self.w = workspace
        self.rows = workspace.y.shape[0]
        self.segment_ends: list[int] = workspace.segment_ends.tolist()

    def _view(self) -> tuple[Tensor, Tensor, Tensor]:
        """Control, count and k of the rows in use."""
        return (
            self.w.control[:, : self.rows],
            self.w.count[:, : self.rows],
            self.w.k[:, : self.rows],
        )

    def stage(self, i: int) -> None:
        """Input and time of stage i: y + h sum_j a_ij k_j, t + c_i h."""
        w = self.w
        control, _, k = self._view()
        h, y = control[Control.STEP], w.y[: self.rows]
        used = [(a, j) for j, a in enumerate(w.a[i, :i].tolist()) if a]
        total = weighted_sum(y, [h * a for a, _ in used], [k[j] for _, j in used])
        total = torch.where(h[:, None] == 0, y, total)
        w.stage[: self.rows] = total
        w.stage_times[: self.rows] = (control[Control.TIME] + float(w.c[i]) * h).to(y.dtype)
        if i == len(w.c) - 1:
            w.y_new[: self.rows] = total

    def _norm(self, x: Tensor, z: Tensor) -> Tensor:
        w, control, y = self.w, self.w.control[:, : self.rows], self.w.y[: self.rows]
        live = w.live if w.live.ndim == 1 else w.live[w.count[Count.ROW, : self.rows]]
        tolerances = control[Control.RTOL], control[Control.ATOL]
        return error_norm(x, y, z, *tolerances, self.segment_ends, live)

    def control(self) -> None:
        """Accept a row if its error's norm is at most 1; size of its next step.

        factor = safety e_n^-beta_0 e_{n-1}^-beta_1 e_{n-2}^-beta_2 within the bounds; at most 1
        after a rejection, at most `safety` for one.
        """
        w, s = self.w, self.w.step_size
        control, count, k = self._view()
        running = count[Count.STATUS] == Status.RUNNING
        h = control[Control.STEP]
        used = [(e, j) for j, e in enumerate(w.error.tolist()) if e]
        errors = weighted_sum(None, [h * e for e, _ in used], [k[j] for _, j in used])
        error = self._norm(errors, w.y_new[: self.rows])
        taken = s.accepts(error, h.abs()) & running
        grown = torch.where(control[Control.PROPOSAL] < 0, 1.0, s.max_factor)
        past = control[Control.ERROR_1], control[Control.ERROR_2]
        size = s.within(h.abs() * s.factor(error, taken, past, grown))
        proposal = torch.where(taken, size, -size)
        for row, value, where in (
            (Control.ERROR_2, control[Control.ERROR_1], taken),
            (Control.ERROR_1, error.clamp(min=LEAST_ERROR), taken),
            (Control.ERROR, error, running),
            (Control.PROPOSAL, proposal, running),
        ):
            control[row] = torch.where(where, value, control[row])
        count[Count.TAKEN] = taken
        count[Count.ACCEPTED] += taken
        count[Count.REJECTED] += running & ~taken

    def _advance(self, time: Tensor, moving: Tensor) -> None:
        """Set the time of rows; end them, or say what their next step is."""
        control, count, _ = self._view()
        end, size = control[Control.END], control[Control.PROPOSAL].abs()
        rest = end - time
        step = fitted(rest, size)
        steps = count[Count.ACCEPTED] + count[Count.REJECTED]
        stuck = (time + step == time) | ~torch.isfinite(step)
        bad = ~torch.isfinite(control[Control.ERROR])
        status = torch.where(stuck, torch.where(bad, Status.NON_FINITE, Status.UNDERFLOW), 0)
        status = torch.where(steps >= self.w.step_size.max_steps, Status.MAX_STEPS, status)
        status = torch.where(time == end, Status.DONE, status)
        step = torch.where(status == Status.RUNNING, step, 0.0)
        control[Control.TIME] = torch.where(moving, time, control[Control.TIME])
        control[Control.STEP] = torch.where(moving, step, control[Control.STEP])
        count[Count.STATUS] = torch.where(moving, status, count[Count.STATUS])

    def commit(self) -> None:
        """Of accepted rows the outputs in (t, t + h], then y = y', k_0 = k_{S-1}, t = t + h."""
        w = self.w
        control, count, k = self._view()
        running = count[Count.STATUS] == Status.RUNNING
        taken = (count[Count.TAKEN] != 0) & running
        t, h, end = (control[row] for row in (Control.TIME, Control.STEP, Control.END))
        t_new = torch.where(h == end - t, end, t + h)
        row, outputs = count[Count.ROW], w.output_times.shape[-1]
        y, y_new = w.y[: self.rows], w.y_new[: self.rows]
        while outputs:
            cursor = count[Count.CURSOR].clamp(max=outputs - 1)
            times = w.output_times
            at = times[cursor] if times.ndim == 1 else times[row, cursor]
            due = taken & (count[Count.CURSOR] < outputs)
            due = due & torch.where(h > 0, at <= t_new, at >= t_new)
            if not bool(due.any()):
                break
            found = self.interpolate((at - t) / h)
            found = torch.where((at == t_new)[:, None], y_new, found)
            w.ys[cursor[due], row[due]] = found[due]
            count[Count.CURSOR] += due
        w.y[: self.rows] = torch.where(taken[:, None], y_new, y)
        k[0] = torch.where(taken[:, None], k[-1], k[0])
        self._advance(torch.where(taken, t_new, t), running)

    def interpolate(self, theta: Tensor) -> Tensor:
        """y(t + theta h), [R, N], for theta [R]."""
        control, _, k = self._view()
        h = control[Control.STEP]
        weights, terms = [], []
        for row, slope in zip(self.w.dense.tolist(), k, strict=True):
            if row[0] or row[1]:
                b = torch.full_like(theta, row[-1])
                for p in reversed(row[:-1]):
                    b = b * theta + p
                weights.append(h * (b * theta))
                terms.append(slope)
        return weighted_sum(self.w.y[: self.rows], weights, terms)

    def start(self) -> None:
        """Begin with the proposed first step; rows whose slope is not finite end here."""
        control, count, k = self._view()
        running = count[Count.STATUS] == Status.RUNNING
        finite = torch.isfinite(k[0]).all(1)
        for row, value in (
            (Control.ERROR, torch.where(finite, 1.0, math.inf)),
            (Control.ERROR_1, 1.0),
            (Control.ERROR_2, 1.0),
        ):
            control[row] = torch.where(running, value, control[row])
        self._advance(control[Control.TIME], running)
        bad = running & ~finite & (count[Count.STATUS] == Status.RUNNING)
        count[Count.STATUS] = torch.where(bad, Status.NON_FINITE, count[Count.STATUS])
        control[Control.STEP] = torch.where(bad, 0.0, control[Control.STEP])

    def probe(self) -> None:
        """h_0 = 0.01 |y| / |f|, and the input at t + h_0 (Hairer, Norsett, Wanner 1993, II.4)."""
        w = self.w
        control, count, k = self._view()
        running = count[Count.STATUS] == Status.RUNNING
        y = w.y[: self.rows]
        d0, d1 = self._norm(y, y), self._norm(k[0], y)
        rest = control[Control.END] - control[Control.TIME]
        h = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
        h = torch.minimum(h.clamp(max=w.step_size.max_step), rest.abs())
        for row, value in ((Control.ERROR_1, d1), (Control.PROPOSAL, h)):
            control[row] = torch.where(running, value, control[row])
        signed = torch.copysign(h, rest)
        found = weighted_sum(y, [signed], [k[0]])
        time = (control[Control.TIME] + signed).to(y.dtype)
        w.stage[: self.rows] = torch.where(running[:, None], found, w.stage[: self.rows])
        w.stage_times[: self.rows] = torch.where(running, time, w.stage_times[: self.rows])

    def first(self) -> None:
        """h = min(100 h_0, (0.01 / max(d_1, d_2))^(1 / order)), d_2 = |f_1 - f_0| / h_0."""
        s = self.w.step_size
        control, count, k = self._view()
        running = count[Count.STATUS] == Status.RUNNING
        h0, d1 = control[Control.PROPOSAL], control[Control.ERROR_1]
        d2 = self._norm(k[1] - k[0], self.w.y[: self.rows]) / h0
        d = torch.where(d2 > d1, d2, d1)
        h = torch.where(d <= 1e-15, (h0 * 1e-3).clamp(min=1e-6), power(0.01 / d, 1 / s.order))
        h = torch.minimum(100 * h0, h)
        h = torch.where(torch.isfinite(h), h, h0)
        h = h.clamp(min=s.min_step).clamp(max=s.max_step)
        control[Control.PROPOSAL] = torch.where(running, h, h0)
        self.start()

    def compacted(self) -> int:
        """Running rows first, where that is wanted; 0, FINISHED or FEWER_ROWS."""
        w = self.w
        control, count, k = self._view()
        running = count[Count.STATUS] == Status.RUNNING
        left = int(running.sum())
        if left == 0:
            return FINISHED
        if not w.compact or left == self.rows:
            return 0
        order = torch.argsort(~running, stable=True)
        for table in (control, count):
            table.copy_(table[:, order])
        w.y[: self.rows] = w.y[: self.rows][order]
        k[0] = k[0][order]
        self.rows = left
        return FEWER_ROWS
