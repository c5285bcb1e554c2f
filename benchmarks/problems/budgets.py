"""Plans that keep to a number of network evaluations."""

from __future__ import annotations

import fastgen
from fastgen.cli import solver_table as table
from fastgen.schedules import Schedule


def most_steps(solver: str, schedule: Schedule, budget: int, grid: str) -> fastgen.Plan | None:
    """The plan with the most steps that cost at most ``budget`` evaluations."""
    steps = int(budget / table.row(solver).evaluations)
    for count in range(steps, 0, -1):
        plan = fastgen.plan(solver, schedule, count, timesteps=grid)
        if plan.nfe <= budget:
            return plan
    return None
