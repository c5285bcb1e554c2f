"""Which noises of a plan are increments of one Brownian motion, whatever the time grid."""

from __future__ import annotations

from collections.abc import Sequence

from fastgen.plans.forms import Form, Increment, Instruction, Let, Normal, State

# Solvers may find a time of the grid again through the schedule's inverse.
SAME_TIME = 1e-9


def increments(instructions: Sequence[Instruction], start: float) -> dict[Normal, Increment]:
    """The increment that each noise over an interval becomes; the other noises stay draws.

    A noise belongs to the path under two conditions. Its interval begins at the solver's state or
    below it and goes down. And it lies in a part of the path that is still free, or shares its
    upper end with the noises there (the inner stage of a step).

    For the others the path has no fresh increment: noise that takes the state back up (churn,
    restarts), noise without an interval (Langevin steps), a second noise of one interval.

    Args:
        instructions: those of a plan, in order.
        start: the first time of the grid.
    """
    front = lowest = start
    taken: dict[Normal, Increment] = {}
    seen: set[Normal] = set()
    for i in instructions:
        if isinstance(i, State):
            front = min(front, i.time)
        if not isinstance(i, Let):
            continue
        for z in sorted(s for s in i.form.terms if isinstance(s, Normal) and s not in seen):
            seen.add(z)
            if not (0 <= z.end < z.start <= 1 and z.start <= front + SAME_TIME):
                continue
            if z.start <= lowest + SAME_TIME or all(
                z.start == other.start and z.end != other.end
                for other in taken
                if z.end < other.start - SAME_TIME and other.end < z.start - SAME_TIME
            ):
                taken[z] = Increment(z.draw, z.start, z.end)
                lowest = min(lowest, z.end)
    return taken


def follow_path(instructions: Sequence[Instruction], start: float) -> tuple[Instruction, ...]:
    """The instructions with those noises replaced."""
    found = increments(instructions, start)

    def replaced(form: Form) -> Form:
        return Form(
            {found.get(s, s) if isinstance(s, Normal) else s: c for s, c in form.terms.items()}
        )

    return tuple(Let(i.value, replaced(i.form)) if isinstance(i, Let) else i for i in instructions)
