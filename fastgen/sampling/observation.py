"""Watching a run: what callbacks and trajectories see, and the progress bar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fastgen.common.display import displayed
from fastgen.common.unwritten import version
from fastgen.kernels.combine.reference import mixed
from fastgen.plans import Plan, Program
from fastgen.sampling.network_calls import converted
from fastgen.sampling.prepared import Prepared
from fastgen.sampling.run import ShowsEvaluation


class Evaluation:
    """The network's last evaluation before a step, read while its memory still holds it.

    Args:
        time: where it was made: a time, or those of the samples, float64 [B].
        read: gives the output and the state that it was made at; None where there was none.
        convert: (output, state) -> the data prediction.
    """

    def __init__(
        self,
        time: float | Tensor,
        read: Callable[[], tuple[Tensor, Tensor]] | None,
        convert: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self.time, self._convert = time, convert
        self._read = read
        self._found: tuple[Tensor, Tensor] | None = None
        self._data: Tensor | None = None
        self._over = False

    def _both(self) -> tuple[Tensor, Tensor]:
        if self._found is None:
            if self._over:
                raise RuntimeError(
                    "Step: its evaluation is over and the memory used again; read step.data or "
                    "step.output within the callback"
                )
            if self._read is None:
                raise RuntimeError("Step: the network has not been evaluated before this state")
            self._found = self._read()
        return self._found

    def output(self) -> Tensor:
        """See `Step.output`."""
        return self._both()[0]

    def data(self) -> Tensor:
        """See `Step.data`."""
        if self._data is None:
            self._data = self._convert(*self._both())
        return self._data

    def end(self) -> None:
        """The run goes on: what has not been read is gone."""
        self._over, self._found, self._read = True, None, None


@displayed
@dataclass(frozen=True)
class Step:
    """What a callback sees after each step.

    index: of the step, from 0. time: where the state is, 1 is noise and 0 data; where each sample
    has its own (error-controlled runs), that of the one that is furthest behind. state: [B, ...].

    In a planned run ``state`` is a live buffer: clone it to keep it. What a callback writes to it
    in place, with operations of torch, the run goes on from: the next evaluation reads it in
    whatever dtype, and solvers with a history keep their outputs of earlier steps. (Not through
    ``.data`` or NumPy, whose writes torch does not count.) In an error-controlled run it is a copy.

    ``data`` and ``output`` are of the last evaluation before the state, at the time ``evaluated``:
    for previews, and for networks that are conditioned on their last prediction. They cost nothing
    unless they are read, which must be done within the callback.
    """

    index: int
    time: float
    state: Tensor
    _evaluation: Evaluation | None = field(default=None, repr=False, compare=False)
    _times: Tensor | None = field(default=None, repr=False, compare=False)
    _moved: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def times(self) -> Tensor:
        """The time of each sample, float64 [B]."""
        if self._times is not None:
            return self._times
        return torch.full(
            (len(self.state),), self.time, dtype=torch.float64, device=self.state.device
        )

    @property
    def moved(self) -> Tensor:
        """Which samples this step moved, bool [B]; others have ended, or had a step refused."""
        if self._moved is not None:
            return self._moved
        return torch.ones(len(self.state), dtype=torch.bool, device=self.state.device)

    @property
    def evaluated(self) -> float | Tensor:
        """The time of the evaluation; of an error-controlled run float64 [B]."""
        return self._last.time

    @property
    def output(self) -> Tensor:
        """What the network returned at the last evaluation, [B, ...] in its dtype.

        With guidance its outputs are combined, in the state's dtype; of a learned variance it is
        the half with the mean, of a velocity and a score the velocity. With a transform it is the
        transformed data prediction. The memory may be the network's own: clone it to keep it.

        Raises:
            RuntimeError: after the callback, and where nothing has been evaluated yet.
        """
        return self._last.output()

    @property
    def data(self) -> Tensor:
        """The data prediction of the last evaluation, [B, ...] in the state's dtype; a new tensor.

        E[x_0 | x] as the network sees it, guided, transformed and clipped as the solver is given
        it. Of a step of several evaluations it is that of the last one, at ``evaluated``: with
        "heun" the second, at the end of Euler's step.

        Raises:
            RuntimeError: after the callback, and where nothing has been evaluated yet.
            ValueError: where the network's output does not determine the data.
        """
        return self._last.data()

    @property
    def _last(self) -> Evaluation:
        if self._evaluation is None:
            raise RuntimeError("Step: made without an evaluation")
        return self._evaluation


def reports_of(program: Program, plan: Plan) -> dict[int, list[tuple[int, float, int]]]:
    """For every stage the plan's states that it completes: (step, time, buffer)."""
    reports: dict[int, list[tuple[int, float, int]]] = {}
    states = zip(program.states, plan.states, strict=True)
    for index, ((stage, buffer), state) in enumerate(states):
        reports.setdefault(stage, []).append((index, state.time, buffer))
    return reports


def last_evaluation(prepared: Prepared, run: ShowsEvaluation, k: int) -> Evaluation:
    """Evaluation k, the last one of an observed run, for its callback; k = -1 is none."""
    plan, guidance = prepared.plan, prepared.guidance
    if k < 0:
        return Evaluation(float(plan.times[0]), None, lambda output, state: output)
    time = plan.evaluations[k].time

    def read() -> tuple[Tensor, Tensor]:
        outputs, state = run.evaluated(k)
        assert state is not None
        output = outputs[0]
        if guidance is not None and len(outputs) > 1:
            output = guidance.merge([output.to(state.dtype) for output in outputs], time).output
        return output, state

    def data(output: Tensor, state: Tensor) -> Tensor:
        found = converted(prepared.parametrisation, "data", time, state, output)
        found = found if plan.clip is None else found.clamp(*plan.clip)
        return found if run.known is None else mixed(found, *run.known)

    return Evaluation(time, read, data)


def written(
    callback: Callable[[Step], None] | None,
    prepared: Prepared,
    run: ShowsEvaluation,
    k: int,
    step: Step,
) -> bool:
    """Show a step after evaluation k to its callback; whether that wrote to the state."""
    if callback is None:
        return False
    before, last = version(step.state), last_evaluation(prepared, run, k)
    callback(replace(step, _evaluation=last))
    last.end()
    return version(step.state) != before


def check_resumable(program: Program, plan: Plan, index: int) -> None:
    """Raise a ValueError where nothing of a run depends on an observed state any more."""
    if not program.read[index]:
        raise ValueError(
            f"callback: it wrote to the state after step {index}, from which {plan.solver!r} does "
            "not go on; choose another solver"
        )


def progress_bar(plan: Plan, wanted: bool) -> Callable[[], object]:
    """What to call after each evaluation."""
    return counter(plan.nfe, plan.solver, "evaluation", wanted)


def counter(total: int, name: str, unit: str, wanted: bool) -> Callable[[], object]:
    """What to call after each of so many, with a progress bar if one is wanted."""
    if not wanted:
        return lambda: None
    bar = _bar(total=total, desc=name, unit=unit)
    return lambda: bar.update()


class TimeBar:
    """A progress bar of the time that all samples of an error-controlled run have covered."""

    def __init__(self, start: float, end: float, name: str) -> None:
        self.start, self.length = start, abs(end - start)
        form = "{desc}: {percentage:3.0f}%|{bar}| {n:.3f}/{total:.3f} [{elapsed}{postfix}]"
        self.bar = _bar(total=self.length, desc=name, bar_format=form)

    def show(self, time: float, steps: int) -> None:
        """The sample that is furthest behind is at this time, after so many steps of the batch."""
        self.bar.set_postfix_str(f"{steps} steps", refresh=False)
        self.bar.update(min(abs(time - self.start), self.length) - self.bar.n)

    def close(self) -> None:
        """The run is over."""
        self.bar.close()


def _bar(**options: Any) -> Any:
    from tqdm.auto import tqdm

    return tqdm(**options)
