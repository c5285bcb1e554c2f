"""A window of a run as one cascade: the points of many evaluations from guesses of their outputs.

The rows of the workspace:

    slots     the program's buffers
    points    what each evaluation of the window was made at: the state, or the network's input
    inputs    what the network was fed, where that is something else
    moves     how far each point has moved since the network was last evaluated there
    raws      outputs of the network: those of the window, and older ones that stages still read
    given     of each evaluation what is neither a buffer nor an output (`fastgen.plans.Increment`)
    clipped, spare

Evaluations take turns on the rows of the window, k on number k mod window. The sums of a stage are
those of the ordinary run, so that a point whose predecessors' outputs are right is right bit for
bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fastgen.common.devices import upload
from fastgen.kernels.cascade.contract import Sums
from fastgen.model.parametrisation import Parametrisation
from fastgen.plans import Program, Stage
from fastgen.plans.forms import Computed, Increment
from fastgen.plans.program import Raw
from fastgen.sampling.tables import Tables


class Rows:
    """Which row of the workspace is what."""

    def __init__(self, program: Program, window: int) -> None:
        stages = [s for s in program.stages if s is not None]
        reads = [
            (k - 1, i)
            for k, stage in enumerate(program.stages)
            if stage is not None
            for i in stage.inputs
        ]
        raws = [(k, i) for k, i in reads if isinstance(i, Raw)]
        self.window = window
        self.read = {(i.evaluation, i.branch) for _, i in raws}
        self.ring = window + max((k - i.evaluation for k, i in raws), default=0)
        self.branches = 1 + max((i.branch for _, i in raws), default=0)
        self.each = max((len(given(s)) for s in stages), default=0)
        self.fed = any(c.state not in (None, c.input) for c in program.calls)
        spare = max((len(s.outputs) for s in stages), default=0)
        self._points = len(program.network_buffers)
        self._inputs = self._points + window
        self._moves = self._inputs + window * self.fed
        self._raws = self._moves + window
        self._given = self._raws + self.ring * self.branches
        self.clipped = self._given + window * self.each
        self._spare = self.clipped + 1
        self.count = self._spare + spare

    def point(self, k: int) -> int:
        """What evaluation k was made at."""
        return self._points + k % self.window

    def input(self, k: int) -> int:
        """What the network was fed at evaluation k."""
        return (self._inputs if self.fed else self._points) + k % self.window

    def move(self, k: int) -> int:
        """The way from the point of evaluation k to where the last pass has put it."""
        return self._moves + k % self.window

    def raw(self, k: int, branch: int = 0) -> int:
        """An output of evaluation k."""
        return self._raws + k % self.ring * self.branches + branch

    def given(self, k: int, place: int) -> int:
        """What evaluation k's stage reads beside buffers and outputs."""
        return self._given + k % self.window * self.each + place

    def spare(self, place: int) -> int:
        """Outputs of a stage that may not be written yet."""
        return self._spare + place


def given(stage: Stage | None) -> list[Computed | Increment]:
    """What a stage reads that is neither a buffer nor an output."""
    inputs = () if stage is None else stage.inputs
    return [i for i in inputs if isinstance(i, Computed | Increment)]


class WindowSums:
    """All sums of a program's windows, with their coefficients on a device.

    There are three ways from evaluation to evaluation. again: where outputs are known; fresh: where
    they are not, and are guessed from the one before; blind: where nothing is known. The sums of
    evaluation k are again[k] .. again[k + 1]: the stage before it, but for the first one, and what
    becomes of its point.
    """

    def __init__(
        self,
        program: Program,
        parametrisation: Parametrisation,
        window: int,
        tables: Tables,
        device: torch.device,
    ) -> None:
        self.rows, self.program = Rows(program, window), program
        self._lines: list[tuple[int, int, int, int]] = []
        self._sources: list[int] = []
        self._coefficients: list[Tensor] = []  # each [1 or B, some]
        self._parametrisation = parametrisation
        self._stage_tables = [None if t is None else t.cpu() for t in tables.coefficients]
        normals = [s.normals if s is not None else () for s in program.stages]
        self.slopes: list[int] = []  # of each evaluation the place of its first output's slope
        self._first_draw = np.cumsum([0, *map(len, normals)]).tolist()
        self.again = self._pass(self._meet_again)
        self.fresh = self._pass(self._meet_fresh)
        self.blind = self._pass(self._meet_blind)
        self.sums = Sums(
            torch.tensor(self._lines, dtype=torch.int64, device="cpu").reshape(-1, 4),
            torch.tensor(self._sources, dtype=torch.int64, device="cpu"),
        )
        count = max((len(c) for c in self._coefficients), default=1)
        every = [c.expand(count, -1) for c in self._coefficients]
        together = torch.cat(every, 1)
        for branch in range(self.rows.branches):
            together[:, [at + 2 * branch for at in self.slopes]] = 0.0
        self.coefficients = upload(together.contiguous(), device)
        self.draws = tables.packed_draws
        self.clip = next((s.clip for s in program.stages if s is not None and s.clip), None)
        self.live = self._live()

    def _pass(self, meet: Callable[[int], None]) -> list[int]:
        starts = []
        for k in range(len(self.program.calls)):
            starts.append(len(self._lines))
            if k > 0:
                self._stage(k)
            meet(k)
        return [*starts, len(self._lines)]

    def _add(
        self,
        target: int,
        sources: list[int],
        coefficients: Tensor | list[float],
        clipped: bool = False,
    ) -> None:
        begin = len(self._sources)
        if not isinstance(coefficients, Tensor):
            coefficients = torch.tensor([coefficients], dtype=torch.float64, device="cpu")
        keep = [n for n in range(len(sources)) if bool((coefficients[:, n] != 0).any())]
        self._sources += [sources[n] for n in keep]
        self._coefficients.append(coefficients[:, keep].reshape(len(coefficients), -1))
        self._lines.append((target, begin, len(self._sources), int(clipped)))

    def _stage(self, s: int) -> None:
        """The sums of stage s, which lies before evaluation s."""
        stage, table = self.program.stages[s], self._stage_tables[s]
        if stage is None or table is None:
            return
        rows, place, sources = self.rows, 0, []
        for i in stage.inputs:
            if isinstance(i, int):
                sources.append(i)
            elif isinstance(i, Raw):
                sources.append(rows.raw(i.evaluation, i.branch))
            else:
                sources.append(rows.given(s - 1, place))
                place += 1
        if stage.clip is not None:
            self._add(rows.clipped, sources, table[:, 0, : len(sources)], clipped=True)
            sources.append(rows.clipped)
        sources += [-1 - self._first_draw[s] - n for n in range(len(stage.normals))]
        first = len(stage.outputs) and table.shape[1] - len(stage.outputs)
        late = []
        for j, slot in enumerate(stage.outputs):
            later = table[:, first + j + 1 :]
            needed = any(
                source == slot and bool((later[:, :, n] != 0).any())
                for n, source in enumerate(sources)
            )
            if needed:
                late.append((slot, rows.spare(j)))
            self._add(rows.spare(j) if needed else slot, sources, table[:, first + j])
        for slot, spare in late:
            self._add(slot, [spare], [1.0])

    def _place(self, k: int) -> None:
        """Remember where evaluation k is to be made."""
        call, rows = self.program.calls[k], self.rows
        self._add(rows.point(k), [call.input if call.state is None else call.state], [1.0])
        if rows.fed:
            self._add(rows.input(k), [call.input], [1.0])

    def _meet_again(self, k: int) -> None:
        call, rows = self.program.calls[k], self.rows
        slot = call.input if call.state is None else call.state
        self._add(rows.move(k), [slot, rows.point(k)], [1.0, -1.0])
        self._place(k)
        self.slopes.append(len(self._sources) + 1)
        for branch in range(rows.branches):
            # The slope: what is not zero keeps its place.
            self._add(rows.raw(k, branch), [rows.raw(k, branch), rows.move(k)], [1.0, 1.0])

    def _meet_fresh(self, k: int) -> None:
        """The data prediction stays what it was at the evaluation before."""
        self._place(k)
        if k == 0:
            return self._nothing(k)
        rows, (p, q), (p_old, q_old) = self.rows, self._conversion(k), self._conversion(k - 1)
        for branch in range(rows.branches):
            older = branch if (k - 1, branch) in rows.read else 0
            sources = [rows.raw(k - 1, older), rows.point(k - 1), rows.point(k)]
            self._add(rows.raw(k, branch), sources, [q_old / q, p_old / q, -p / q])
        self._forget(k)

    def _meet_blind(self, k: int) -> None:
        self._place(k)
        self._nothing(k)

    def _nothing(self, k: int) -> None:
        """The output of a network that knows the data's variance alone."""
        rows, call = self.rows, self.program.calls[k]
        slope = gaussian_slope(self._parametrisation, call.time, call.state is not None)
        for branch in range(rows.branches):
            self._add(rows.raw(k, branch), [rows.point(k)], [slope])
        self._forget(k)

    def _forget(self, k: int) -> None:
        for place, symbol in enumerate(given(self.program.stages[k + 1])):
            if isinstance(symbol, Computed):
                self._add(self.rows.given(k, place), [], [])

    def _conversion(self, k: int) -> tuple[float, float]:
        """(p, q) with data = p point + q output: what changes least between evaluations."""
        time = self.program.calls[k].time
        try:
            p, q = self._parametrisation.conversion("data", time)
            if self.program.calls[k].state is None:  # the point is the network's input
                p /= self._parametrisation.input_scale(time)
        except ValueError:
            return 0.0, 1.0
        return (p, q) if q and math.isfinite(p / q) else (0.0, 1.0)

    def _live(self) -> list[list[int]]:
        """For each evaluation its own buffers, and those that later stages read as they are."""
        found: list[list[int]] = []
        live: set[int] = set()
        stages, calls = self.program.stages, self.program.calls
        for k in range(len(calls) - 1, -1, -1):
            stage = stages[k + 1]
            if k + 1 < len(calls):
                live.add(calls[k + 1].input)
                live |= {s for s in [calls[k + 1].state] if s is not None}
            if stage is not None:
                live -= set(stage.outputs)
                live |= {i for i in stage.inputs if isinstance(i, int)}
            own = {calls[k].input, *[s for s in [calls[k].state] if s is not None]}
            found.append(sorted(live | own))
        return found[::-1]


def gaussian_slope(parametrisation: Parametrisation, t: float, state: bool) -> float:
    """The factor of the point that a network returns where the data is one Gaussian.

    state: whether the point is the state, or the network's input. The data has deviation 1, or the
    one that EDM's preconditioning assumes; 0 where there is no such number.
    """
    if parametrisation.outputs == 2:
        return 0.0
    alpha, sigma = parametrisation.schedule.alpha(t), parametrisation.schedule.sigma(t)
    deviation = parametrisation.sigma_data if parametrisation.predicts == "edm" else 1.0
    variance = alpha * alpha * deviation * deviation + sigma * sigma
    data, noise = alpha * deviation * deviation / variance, sigma / variance
    if parametrisation.transformed:
        a, b = 1.0, 0.0
    else:
        if parametrisation.predicts == "average_velocity":
            parametrisation = replace(parametrisation, predicts="velocity")
        pair = parametrisation.target(torch.tensor([t], dtype=torch.float64, device="cpu"))
        a, b = (float(x) for x in pair)
    slope = a * data + b * noise
    if not state:
        slope /= parametrisation.input_scale(t)
    return slope if math.isfinite(slope) else 0.0
