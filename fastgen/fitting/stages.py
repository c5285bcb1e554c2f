"""The stages of a fit, each judged on noise that was not fitted to."""

from __future__ import annotations

import io
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastgen.common.checks import check_choice, check_nonnegative, check_positive, check_whole
from fastgen.common.errors import nearest
from fastgen.common.files import replacing
from fastgen.fitting.adam import Adam
from fastgen.fitting.gauss_newton import GaussNewton
from fastgen.fitting.least_squares import Followed, follow
from fastgen.fitting.moving import WHAT, Moving, Replanned, whitened
from fastgen.fitting.racing import Race
from fastgen.fitting.report import Tuning
from fastgen.fitting.rows import Rows
from fastgen.fitting.study import Errors, Study, check_same_output
from fastgen.fitting.whole_run import LOSSES, Descent, Features, Loss, Search
from fastgen.plans import Plan
from fastgen.sampling.observation import counter

# Optimisers of the whole run, and how many iterations each has by default.
ITERATIONS = {"gauss_newton": 20, "adam": 300}
# A teacher has to be this much nearer to the truth than what is fitted to it.
NEARER = 4.0


@dataclass(frozen=True)
class Wanted:
    """What of a fit is asked for, checked."""

    what: str
    optimiser: str
    iterations: int | None
    rate: float
    loss: str | Loss
    features: Features | None
    relaxation: float
    patience: int
    checkpoint: bool
    ridge: float

    def __post_init__(self) -> None:
        check_choice("what", self.what, WHAT)
        check_choice("optimiser", self.optimiser, tuple(ITERATIONS))
        if self.iterations is not None:
            check_whole("iterations", self.iterations, 0)
        check_positive("rate", self.rate)
        check_whole("patience", self.patience, 1)
        check_nonnegative("relaxation", self.relaxation)
        check_nonnegative("ridge", self.ridge)
        if isinstance(self.loss, str) and self.loss not in LOSSES:
            raise ValueError(f"loss={self.loss!r}: {nearest(self.loss, LOSSES)}")
        if self.what == "grid" and self.iterations == 0:
            raise ValueError("what='grid': times are moved by the whole run; leave iterations out")
        if self.optimiser != "adam":
            named = "a function" if callable(self.loss) else None
            for name, given in (("loss", named), ("relaxation", self.relaxation)):
                if given:
                    raise ValueError(
                        f"{name}={given}: only gradients follow that; pass optimiser='adam'"
                    )

    def settled(self, rows: Rows) -> Wanted:
        """With what this base allows in the place of None.

        Raises:
            ValueError: where the base draws noise and iterations are asked for.
        """
        noisy, iterations = any(row.scale for row in rows.rows), self.iterations
        if iterations is None:
            iterations = ITERATIONS[self.optimiser] if not noisy or self.what == "grid" else 0
        if noisy and iterations:
            raise ValueError(
                f"iterations={iterations}: {rows.plan.solver!r} draws noise, and rows with "
                "noise are fitted by least squares alone; pass iterations=0, or a base without"
            )
        return replace(self, iterations=iterations)

    @property
    def descent(self) -> Descent:
        """How the whole run is fitted."""
        return Descent(
            self.iterations or 0, self.rate, self.loss, self.features, self.relaxation,
            self.patience, checkpoint=self.checkpoint,
        )  # fmt: skip


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """A context whose time is the stage's."""
        begun = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun


class Fit:
    """The stages of one fit, each judged on held-out noise."""

    def __init__(
        self,
        study: Study,
        base: Plan,
        samples: int,
        held_out: int,
        wanted: Wanted,
        clock: Clock,
        progress: bool,
    ) -> None:
        rows = Rows.of(base, study.model.parametrisation)
        self.study, self.base, self.wanted = study, base, wanted.settled(rows)
        self.clock, self.progress = clock, progress
        self.rows: dict[str, Rows] = {"base": rows}
        self.errors: dict[str, Errors] = {}
        self.losses: dict[str, float] = {}
        self.iterations = 0
        with clock("teacher"):
            self.train, self.judges = study.batches(samples), study.batches(held_out, samples)
            check_same_output(study, self.train[0], rows.times[0])
            study.teach(self.train, rows)
            self.teacher = study.teach(self.judges, rows)
        self.judge("base", base)
        error, own = self.errors["base"], self.teacher[-1]
        if not (NEARER * own.median < error.median or NEARER * own.rms < error.rms):
            settings = study.settings
            raise ValueError(
                f"teacher={settings.teacher!r}: its own error {own} is not well below that of "
                f"{base.solver!r}, {error}; raise teacher_steps={settings.teacher_steps} (or lower "
                "rtol, or fit fewer evaluations)"
            )

    def judge(self, stage: str, plan: Plan) -> None:
        """Run a stage's plan on the held-out noise, as it would be run by anyone."""
        ends = [self.study.run(plan, batch) for batch in self.judges]
        wanted = [batch.targets[-1] for batch in self.judges]
        self.errors[stage] = Errors.between(ends, wanted)
        pairs = zip(ends, wanted, strict=True)
        loss = sum(float(self.wanted.descent.error(x, y)) for x, y in pairs) / len(ends)
        self.losses[stage] = loss if math.isfinite(loss) else math.inf

    def least_squares(self) -> None:
        """The closed form; the rows of the base too where the grid alone is to move."""
        tick = counter(self.rows["base"].nfe, "least squares", "step", self.progress)
        with self.clock("least squares"):
            found = follow(
                self.study,
                self.train,
                self.rows["base"],
                fit=True,
                ridge=self.wanted.ridge,
                tick=tick,
            )
        if self.wanted.what != "grid":
            self.rows["least squares"] = found.rows
            self.judge("least squares", found.rows.to_plan())
        self.followed: Followed = found

    def whole_run(self, path: Path | None) -> None:
        """The optimiser from the best rows so far, with early stopping."""
        stage = min(self.losses, key=lambda stage: self.losses[stage])
        first, error = self.rows[stage], self.errors[stage].median or self.errors[stage].rms
        base, what = self.rows["base"], self.wanted.what
        replanned: Replanned | None = Replanned(base.plan, self.study.model.parametrisation)
        assert replanned is not None
        if what == "coefficients" or not replanned.possible(base):
            replanned = None
        if what == "grid" and replanned is None:
            raise ValueError(
                f"what='grid': {base.plan.solver!r} does not give the base again on its own times; "
                "make the base with fastgen.plan, or pass what='both'"
            )
        if what == "both" and replanned is None and base.nfe != base.plan.steps:
            raise ValueError(
                f"what='both': the base has {base.nfe} evaluations in {base.plan.steps} steps and "
                "no solver to plan on other times; pass what='coefficients'"
            )
        directions = [whitened(gram, 1e-7) for gram in self.followed.grams]
        moving = Moving(first, base, replanned, directions, what)
        given = self.study, moving, self.wanted.descent, self.train
        name = self.wanted.optimiser
        state: Search = Adam(*given, error) if name == "adam" else GaussNewton(*given)
        mark = json.dumps(
            [base.plan.to_json(), what, len(self.train), repr(self.study.settings.shape), name]
        )
        if path is not None and path.exists():
            state.load(_read(path, mark))
        tick = counter(state.descent.iterations, name, "iteration", self.progress)
        with self.clock(name):
            self._descend(state, tick, path, mark)
        self.iterations = state.iteration
        found = state.to_rows()
        self.rows[name] = found
        self.judge(name, found.to_plan())

    def summary(self, found: Race | None) -> Tuning:
        """What the fit reports, and which stage is the best."""
        chosen = min(self.losses, key=lambda stage: self.losses[stage])
        followed = self.followed
        return Tuning(
            self.base, found, self.teacher, followed.before, followed.after, self.errors,
            self.losses, chosen, self.rows[chosen].consistency(), self.iterations,
            self.clock.seconds,
        )  # fmt: skip

    def _descend(
        self, state: Search, tick: Callable[[], object], path: Path | None, mark: str
    ) -> None:
        going = state.look(self.judges) if state.iteration == 0 else True
        while going and state.iteration < state.descent.iterations:
            if not state.advance():
                warnings.warn(
                    f"tune: the run is not finite at iteration {state.iteration}, and the best "
                    "rows before are kept",
                    stacklevel=4,
                )
                return
            tick()
            if state.iteration % state.every == 0 or state.iteration == state.descent.iterations:
                going = state.look(self.judges)
                if path is not None:
                    _write(path, state, mark)


def _write(path: Path, state: Search, mark: str) -> None:
    memory = io.BytesIO()
    torch.save({"mark": mark, **state.state()}, memory)
    with replacing(path) as file:
        file.write(memory.getvalue())


def _read(path: Path, mark: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = torch.load(path, weights_only=True)
        same = found.pop("mark") == mark
    except Exception as error:  # anything may lie there
        raise ValueError(f"resume={str(path)!r}: no state of a fit ({error})") from error
    if not same:
        raise ValueError(
            f"resume={str(path)!r}: it belongs to a fit of another base or of other samples; give "
            "another file, or delete it"
        )
    return found
