"""A quick race of solvers and grids at a budget of evaluations, on the user's network."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import fastgen.timesteps as grids
from fastgen.common.checks import check_whole
from fastgen.common.display import displayed
from fastgen.common.files import replacing
from fastgen.common.typed import typed
from fastgen.fitting.rows import Rows
from fastgen.fitting.study import (
    TEACHER,
    Batch,
    Conditioning,
    Errors,
    Settings,
    Study,
    check_same_output,
)
from fastgen.model.guidance import Guidance
from fastgen.model.model import Model, check_model
from fastgen.plans import Plan
from fastgen.sampling.observation import counter
from fastgen.solvers import Solver, get, names
from fastgen.solvers import plan as make_plan
from fastgen.timesteps import Grid

GRIDS = ("karras", "log_snr", "uniform", "quadratic")
# They draw from consistency functions or bridges, which the networks of a race are not.
OTHER_MODELS = ("bridge_sde", "consistency")
HEADERS = ("solver", "grid", "NFE", "rms", "median", "seconds")


@displayed
@dataclass(frozen=True)
class Entry:
    """What one solver on one grid did: its plan, its distance to the teacher, its time."""

    solver: str
    grid: str
    plan: Plan
    error: Errors
    seconds: float

    @property
    def cells(self) -> tuple[str, ...]:
        """What a table prints."""
        rms, median = (f"{e:.4g}" for e in self.error)
        return self.solver, self.grid, str(self.plan.nfe), rms, median, f"{self.seconds:.3f}"


@dataclass(frozen=True)
class Race:
    """The entries of a race, the nearest to the teacher first.

    nfe: the budget. teacher: its own error, as of its solve with half the steps. left_out: why the
    others could not run, by solver and grid.
    """

    nfe: int
    samples: int
    entries: tuple[Entry, ...]
    teacher: Errors
    left_out: dict[tuple[str, str], str]

    @property
    def best(self) -> Plan:
        """The winner's plan."""
        return self.entries[0].plan

    def table(self, most: int | None = None) -> str:
        """The entries as text, or the first few."""
        rows = [HEADERS, *(e.cells for e in self.entries[:most])]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(w) if k < 2 else cell.rjust(w)
                for k, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self._text(6)

    def __str__(self) -> str:
        return self._text(None)

    def _text(self, most: int | None) -> str:
        head = (
            f"Race of {len(self.entries)} plans at {self.nfe} evaluations, {self.samples} samples; "
            f"the teacher's own error {self.teacher}"
        )
        more = 0 if most is None else len(self.entries) - most
        return "\n".join([head, self.table(most), *([f"and {more} more"] if more > 0 else [])])

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """All entries as CSV, written at once or not at all."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(("solver", "grid", "nfe", "rms", "median", "seconds"))
        for e in self.entries:
            writer.writerow((e.solver, e.grid, e.plan.nfe, *e.error, e.seconds))
        with replacing(Path(path)) as file:
            file.write(text.getvalue().encode())


@typed
def race(
    model: Model,
    shape: Sequence[int],
    nfe: int,
    *,
    solvers: Sequence[str | Solver[...]] | None = None,
    timesteps: Sequence[str | Grid[...]] | None = None,
    samples: int = 64,
    batch: int = 64,
    seed: int = 1_000_003,
    guidance: Guidance | None = None,
    net_kwargs: Conditioning | None = None,
    start: float | None = None,
    end: float = 0.0,
    clip: tuple[float, float] | None = None,
    dtype: torch.dtype = torch.float32,
    teacher: str = TEACHER,
    teacher_steps: int | None = None,
    rtol: float = 1e-4,
    progress: bool = False,
) -> Race:
    """Which solver on which grid comes nearest to the exact flow of this network.

    Every plan takes as many steps as ``nfe`` evaluations allow and starts from the same noise; it
    is held against a fine solve of the same model. Deterministic solvers only: what a stochastic
    one draws has no exact end to be near to.

    Args:
        model: the network and what it means.
        shape: of one sample.
        nfe: the budget of evaluations.
        solvers: names or rows of `fastgen.solvers`; the default is all deterministic ones.
        timesteps: grids; the default is the schedule's own, "karras", "log_snr", "uniform" and
            "quadratic".
        samples, batch: so many noises, so many at a time.
        seed: of the noise contract, far from the seeds that one draws with.
        guidance: as of `fastgen.Sampler`; tensors in it have a row for each sample of ``batch``.
        net_kwargs: the network's arguments, as a dictionary for a batch, or a function of the
            batch's sample ids [batch] that gives one: conditioning as it will be asked for.
        start, end, clip: of the plans, as of `fastgen.plan`.
        dtype: of the states.
        teacher: a deterministic solver, run on steps even in log-SNR, or an error-controlled one
            such as "dopri5".
        teacher_steps: of the teacher for each tenth of the grid; the default is 12.
        rtol: of an error-controlled teacher.
        progress: show a progress bar (needs tqdm).

    Returns:
        A `Race`, which prints as a table; its ``best`` is the winner's plan.

    Raises:
        ValueError: naming the argument; for a network that is not deterministic; if no plan keeps
            to the budget.

    Example:
        >>> model = fastgen.Model(lambda x, t: 0.3 * x, fastgen.schedules.CosineVP(), "noise")
        >>> found = fastgen.race(model, (8,), 4, solvers=["ddim", "dpmpp_2m", "unipc"])
        >>> len(found.entries), found.best.nfe
        (12, 4)
    """
    check_model(model)
    check_whole("nfe", nfe, 1)
    steps = 12 if teacher_steps is None else teacher_steps
    settings = Settings(shape, batch, seed, guidance, net_kwargs, dtype, teacher, steps, rtol)
    settings.check_samples("samples", samples)
    study = Study(model, settings)
    t = model.schedule.t_max if start is None else float(start)
    batches = study.batches(samples)
    check_same_output(study, batches[0], t)
    tenths = make_plan("ddim", model.schedule, 10, start=t, end=end)
    *_, error = study.teach(batches, Rows.of(tenths, model.parametrisation))
    planned: list[tuple[str, str, Plan]] = []
    left_out: dict[tuple[str, str], str] = {}
    for name, grid, made in _plans(model, nfe, solvers, timesteps, start, end, clip):
        if isinstance(made, str):
            left_out[name, grid] = made
        else:
            planned.append((name, grid, made))
    if not planned:
        reasons = "; ".join(f"{s} on {g}: {why}" for (s, g), why in list(left_out.items())[:3])
        raise ValueError(f"nfe={nfe}: no solver can be planned within it ({reasons})")
    tick = counter(len(planned), "race", "plan", progress)
    entries = []
    for name, grid, made in planned:
        entry = _entered(study, batches, name, grid, made)
        if isinstance(entry, str):
            left_out[name, grid] = entry
        else:
            entries.append(entry)
        tick()
    if not entries:
        raise ValueError(
            f"nfe={nfe}: no plan gave finite samples ({next(iter(left_out.values()))})"
        )
    entries.sort(key=lambda e: e.error.rms)
    return Race(nfe, samples, tuple(entries), error, left_out)


def _entered(
    study: Study, batches: Sequence[Batch], name: str, grid: str, plan: Plan
) -> Entry | str:
    """A plan's entry, or why it has none."""
    begun = time.perf_counter()
    try:
        found = [study.run(plan, batch) for batch in batches]
    except ValueError as problem:
        return str(problem)
    seconds = time.perf_counter() - begun
    error = Errors.between(found, [batch.targets[-1] for batch in batches])
    if not error.rms < float("inf"):
        return "its samples are not finite"
    return Entry(name, grid, plan, error, seconds)


def _plans(
    model: Model,
    nfe: int,
    solvers: Sequence[str | Solver[...]] | None,
    timesteps: Sequence[str | Grid[...]] | None,
    start: float | None,
    end: float,
    clip: tuple[float, float] | None,
) -> Iterator[tuple[str, str, Plan | str]]:
    """Each solver on each grid: its plan within the budget, or why there is none."""
    if solvers is None:
        known = names(stochastic=False, two_times=model.predicts == "average_velocity")
        solvers = [name for name in known if name not in OTHER_MODELS]
    if timesteps is None:
        own = model.schedule.default_grid
        timesteps = [own, *(grid for grid in GRIDS if grid != own)]
    for solver in solvers:
        entry = solver if isinstance(solver, Solver) else get(solver)
        for grid in timesteps:
            row = grid if isinstance(grid, Grid) else grids.get(grid)
            options = {"timesteps": row, "start": start, "end": end, "clip": clip}
            yield _shown(entry), _shown(row), _within(entry, model, nfe, options)


def _within(solver: Solver[...], model: Model, nfe: int, options: dict[str, Any]) -> Plan | str:
    """The plan of the most steps that cost at most so many evaluations."""
    why = f"one step takes more than {nfe} evaluations"
    for steps in range(nfe, 0, -1):
        try:
            made = make_plan(solver, model.schedule, steps, predicts=model.predicts, **options)
        except ValueError as problem:
            why = str(problem)
            continue
        if made.nfe <= nfe:
            if made.draws:
                return "it draws noise"
            begin = model.schedule.t_max if options["start"] is None else options["start"]
            if made.times[0] != begin:
                return f"it starts at t={made.times[0]:.6g}, the others at {begin:.6g}"
            return made
    return why


def _shown(row: Solver[...] | Grid[...]) -> str:
    given = ", ".join(f"{k}={v!r}" for k, v in row.given.items())
    return f"{row.name}({given})" if given else row.name
