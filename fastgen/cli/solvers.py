"""`fastgen solvers`: the table of solvers, measured from the plans themselves."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cache

from fastgen.cli.solver_facts import FACTS
from fastgen.demo.tables import table
from fastgen.solvers.registry import get, names

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--markdown", action="store_true", help="as the page docs/solvers.md")
    parser.add_argument("--facts", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--order", type=int, help="those of this convergence order")
    parser.add_argument("--evaluations", help="those of so many evaluations per step")
    for name, text in (
        ("--stochastic", "those that draw noise by default, or with --no-stochastic the others"),
        ("--two-times", "those that need a network of average velocities, or with --no- not"),
    ):
        parser.add_argument(name, action=argparse.BooleanOptionalAction, default=None, help=text)


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    facts = ("order", "evaluations", "stochastic", "two_times")
    asked = {fact: getattr(arguments, fact) for fact in facts}
    if arguments.facts:
        print(facts_module(), end="")
    elif arguments.markdown:
        given = [fact for fact, value in asked.items() if value is not None]
        if given:
            raise ValueError(f"--markdown: the page has all solvers; leave out {', '.join(given)}")
        print(markdown(), end="")
    else:
        print(table(HEADERS, [listed(name).cells() for name in names(**asked)]))


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
    # Not above: what was read off the plans before needs none of it.
    from fastgen.model.parametrisation import Parametrisation
    from fastgen.plans.program import Raw
    from fastgen.schedules import LinearVP
    from fastgen.solvers.registry import plan

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


def listed(name: str) -> SolverRow:
    """The same row at once: what plans tell was read off before, and tests hold it to them."""
    if name not in FACTS:  # a solver that was registered since
        return row(name)
    entry, (evaluations, stochastic, history, moved) = get(name), FACTS[name]
    return SolverRow(
        name=name,
        order=entry.order,
        evaluations=evaluations,
        stochastic=stochastic,
        history=history,
        bytes=moved,
        options=_options(name),
        source=entry.source,
    )


def _options(name: str) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in get(name).options.items())


def facts_module() -> str:
    """The module `fastgen/cli/solver_facts.py`."""
    lines = [
        '"""What the plans of each solver tell. Written by `fastgen solvers --facts`."""',
        "",
        "# evaluations in a step, stochastic, history, bytes in a step: see SolverRow.",
        "FACTS: dict[str, tuple[float, str, int, float]] = {",
    ]
    lines += [
        f'    "{r.name}": ({r.evaluations!r}, "{r.stochastic}", {r.history}, {r.bytes!r}),'
        for r in rows()
    ]
    return "\n".join([*lines, "}", ""])


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
