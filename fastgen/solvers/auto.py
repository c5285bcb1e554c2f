"""The choice of ``solver="auto"``: the best by the measurements that the repository keeps."""

from __future__ import annotations

import math
from typing import Any

from fastgen.schedules import DiscreteVP, Rectified, Schedule, Trig
from fastgen.schedules.vp import CosineVP, LinearVP, SubVP
from fastgen.solvers.measured import NOISES, OTHERS, VARIANCE_PRESERVING, VELOCITIES

AUTO = "auto"
ROWS = "benchmarks/results/cpu-quality.csv"


def chosen(
    schedule: Schedule, steps: int | None, timesteps: Any, predicts: str
) -> tuple[str, str | None, str]:
    """The solver, the grid that it was measured on (None: the schedule's own), and why.

    Of the budgets that were measured it is the nearest to the number of steps, as a ratio: all
    that can be chosen make one evaluation in each.

    Raises:
        ValueError: without a number of steps.
    """
    if predicts == "average_velocity":
        return "mean_flow", None, "chosen by solver='auto': the solver of average velocities"
    if predicts == "velocity_and_score":
        note = "chosen by solver='auto': of velocities alone, as no noise level is told"
        return "adams_bashforth", None, note
    count = steps
    if count is None and timesteps is not None and not isinstance(timesteps, str):
        count = len(timesteps) - 1 if hasattr(timesteps, "__len__") else None
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f'steps={steps!r}: solver="auto" is chosen by their number; give it')
    if isinstance(schedule, (LinearVP, CosineVP, SubVP, DiscreteVP)):
        table, where = VARIANCE_PRESERVING, "exact denoisers and a network that predicts v"
        if predicts in ("noise", "score"):
            table, where = NOISES, "a network that predicts noise"
    elif isinstance(schedule, (Rectified, Trig)) or predicts == "velocity":
        table, where = VELOCITIES, "straight paths, exact velocities and a network's"
    else:
        table, where = OTHERS, "exact denoisers"
    nearest = min(table, key=lambda nfe: abs(math.log(nfe / count)))
    solver, grid, times = table[nearest]
    return (
        solver,
        grid,
        (
            f"chosen by solver='auto' for {count} evaluations: {solver} on {grid} is the best of "
            f"one evaluation in each step at {nearest} on {where}, {times:.2f} times the least "
            f"error there ({ROWS})"
        ),
    )
