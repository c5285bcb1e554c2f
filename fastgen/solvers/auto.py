"""The choice of ``solver="auto"``: the best by the measurements that the repository keeps."""

from __future__ import annotations

import math
from typing import Any

from fastgen.schedules import DiscreteVP, Schedule
from fastgen.schedules.vp import CosineVP, LinearVP, SubVP
from fastgen.solvers.measured import OTHERS, VARIANCE_PRESERVING, VELOCITIES

AUTO = "auto"
ROWS = "benchmarks/results/cpu-quality.csv"


def chosen(
    schedule: Schedule, steps: int | None, timesteps: Any, predicts: str
) -> tuple[str, str | None, str]:
    """The solver, the grid that it was measured on (None: the schedule's own), and why.

    Of the budgets that were measured it is the nearest to the number of steps, as a ratio: all
    that can be chosen make one evaluation in each.

    Raises:
        ValueError: without a number of steps, or for networks that were not measured.
    """
    if predicts == "average_velocity":
        raise ValueError(
            f'solver="auto": networks that predict the {predicts} have solvers of their own; take '
            '"mean_flow"'
        )
    count = steps
    if count is None and timesteps is not None and not isinstance(timesteps, str):
        count = len(timesteps) - 1 if hasattr(timesteps, "__len__") else None
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f'steps={steps!r}: solver="auto" is chosen by their number; give it')
    moving = predicts in ("velocity", "v", "velocity_and_score")
    preserving = isinstance(schedule, (LinearVP, CosineVP, SubVP, DiscreteVP))
    table = VELOCITIES if moving else VARIANCE_PRESERVING if preserving else OTHERS
    nearest = min(table, key=lambda nfe: abs(math.log(nfe / count)))
    solver, grid, times = table[nearest]
    where = "networks that predict velocity and v" if moving else "exact denoisers"
    on = grid or "the schedule's own grid"
    return (
        solver,
        grid,
        (
            f"chosen by solver='auto' for {count} evaluations: {solver} on {on} is the best of one "
            f"evaluation in each step at {nearest} on {where}, {times:.2f} times the least error "
            f"there ({ROWS})"
        ),
    )
