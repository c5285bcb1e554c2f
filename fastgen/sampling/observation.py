"""Watching a run: what callbacks and trajectories see, and the progress bar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fastgen.common.display import displayed
from fastgen.plans import Plan, Program


@displayed
@dataclass(frozen=True)
class Step:
    """What a callback sees after each step; ``state`` is a live buffer: clone it to keep it.

    What a callback writes to it in place, with operations of torch, the run goes on from: the
    next evaluation reads it in whatever dtype, and solvers with a history keep their outputs of
    earlier steps. (Not through ``.data`` or NumPy, whose writes torch does not count.)
    """

    index: int
    time: float
    state: Tensor


def reports_of(program: Program, plan: Plan) -> dict[int, list[tuple[int, float, int]]]:
    """For every stage the plan's states that it completes: (step, time, buffer)."""
    reports: dict[int, list[tuple[int, float, int]]] = {}
    states = zip(program.states, plan.states, strict=True)
    for index, ((stage, buffer), state) in enumerate(states):
        reports.setdefault(stage, []).append((index, state.time, buffer))
    return reports


def check_resumable(program: Program, plan: Plan, index: int) -> None:
    """Raise a ValueError where nothing of a run depends on an observed state any more."""
    if not program.read[index]:
        raise ValueError(
            f"callback: it wrote to the state after step {index}, from which {plan.solver!r} does "
            "not go on; choose another solver"
        )


def progress_bar(plan: Plan, wanted: bool) -> Callable[[], object]:
    """What to call after each evaluation."""
    if not wanted:
        return lambda: None
    from tqdm.auto import tqdm

    bar = tqdm(total=plan.nfe, desc=plan.solver, unit="evaluation")
    return lambda: bar.update()
