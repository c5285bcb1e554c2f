"""The table of solvers, read off the plans themselves: for its page and for `solver_facts`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from fastgen.model.parametrisation import Parametrisation
from fastgen.plans.program import Raw
from fastgen.schedules import LinearVP
from fastgen.solvers.registry import get, names, plan

# Options that turn noise on, in the order in which they are looked for.
NOISE_OPTIONS = ("eta", "s_churn")
# The fewest steps that tell what a step costs: histories are full, and both are even, as steps of
# `dpm_solver_singlestep` differ in turn.
STEPS = (4, 6)
HEADERS = (
    "solver",
    "order",
    "evaluations/step",
    "stochastic",
    "history",
    "bytes/step",
    "options",
    "source",
)


@dataclass(frozen=True)
class SolverRow:
    """One solver.

    order: convergence order that the tests measure, weak where noise is added, or None where the
    theory gives none. evaluations: of the network per step, from the plan. history: tensors of
    the state's size that live on between evaluations besides the state. bytes: those that all
    stages read and write per element and step, in float32, if the network predicts noise.
    """

    name: str
    order: int | None
    evaluations: float
    stochastic: str
    history: int
    bytes: float
    options: str
    source: str

    def cells(self) -> tuple[str, ...]:
        """What the table prints."""
        order = "-" if self.order is None else str(self.order)
        return (
            self.name,
            order,
            f"{self.evaluations:g}",
            self.stochastic,
            str(self.history),
            f"{self.bytes:g}",
            self.options,
            self.source,
        )


@cache
def row(name: str, steps: tuple[int, int] = STEPS) -> SolverRow:
    """The table's row of one solver, from plans of few and more steps on the linear VP schedule."""
    entry, schedule = get(name), LinearVP()
    predicts = "average_velocity" if entry.two_times else "noise"
    few, many = (
        plan(name, schedule, count, start=0.9, end=0.1, predicts=predicts) for count in steps
    )
    more = steps[1] - steps[0]
    programs = [p.lower(Parametrisation(schedule, predicts)) for p in (few, many)]
    raws = max(
        len({i for i in stage.inputs if isinstance(i, Raw)}) - 1
        for stage in programs[1].stages
        if stage is not None
    )
    stochastic = "yes" if many.draws else "no"
    for option in NOISE_OPTIONS:
        if not many.draws and option in entry.options:
            stochastic = f"{option} > 0"
            break
    return SolverRow(
        name=name,
        order=entry.order,
        evaluations=(many.nfe - few.nfe) / more,
        stochastic=stochastic,
        history=len(programs[1].network_buffers) - 1 + max(raws, 0),
        bytes=(programs[1].bytes_per_element(4, 4) - programs[0].bytes_per_element(4, 4)) / more,
        options=_options(name),
        source=entry.source,
    )


def _options(name: str) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in get(name).options.items())


def facts_module() -> str:
    """The module `fastgen/cli/solver_facts.py`."""
    lines = [
        '"""The table of solvers as it is printed. Written by `fastgen solvers --facts`."""',
        "",
        "# fmt: off",
        "# ruff: noqa: E501",
        f"HEADERS = {HEADERS!r}",
        "Facts = tuple[int | None, str, bool, bool]  # order, evaluations, stochastic, two_times",
        "FACTS: dict[str, tuple[Facts, tuple[str, ...]]] = {",
    ]
    for name in names():
        entry = get(name)
        facts = (entry.order, entry.evaluations, entry.stochastic, entry.two_times)
        lines.append(f"    {name!r}: ({facts!r}, {row(name).cells()[1:]!r}),")
    return "\n".join([*lines, "}", ""])


def listed(asked: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The cells of all solvers of which everything that is asked, and not None, is true."""
    return [row(name).cells() for name in names(**asked)]


def rows() -> list[SolverRow]:
    """All solvers, alphabetically."""
    return [row(name) for name in names()]


def markdown() -> str:
    """The page docs/solvers.md."""
    lines = [
        "# Solvers",
        "",
        "Written by `fastgen solvers --markdown`. Orders are measured in `tests/solvers/`;",
        "the rest is read off the plans. *order*: of convergence, weak where noise is added,",
        "`-` where the theory gives none. *history*: tensors that live on between evaluations",
        "besides the state. *bytes/step*: read and written per element of the state and step",
        "by all that is not the network (float32, a network that predicts noise).",
        "",
        "| " + " | ".join(HEADERS) + " |",
        "|" + "---|" * len(HEADERS),
    ]
    lines += ["| " + " | ".join(r.cells()) + " |" for r in rows()]
    return "\n".join(lines) + "\n"
