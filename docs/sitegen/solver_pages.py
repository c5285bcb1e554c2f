"""A page for every solver: what it computes, its options, a plan, and its error in kept rows."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import torch
from sphinx.application import Sphinx

import fastgen
from fastgen.cli.solver_table import row
from fastgen.schedules import LinearVP
from fastgen.solvers import get, names
from sitegen import docstrings, reference, rooms, solver_charts

# Which network the plan on a page is for, where it is not one of noise.
PREDICTS = {"bridge_sde": "velocity_and_score", "mean_flow": "average_velocity"}
STEPS = 3


def _build(name: str) -> Any:
    """The function of a solver's mathematics."""
    build = get(name).build
    while hasattr(build, "func"):
        build = build.func
    return inspect.unwrap(build)


def family(name: str) -> tuple[str, str]:
    """The module a solver is in, and the first sentence of its docstring."""
    module = _build(name).__module__
    text = (importlib.import_module(module).__doc__ or module).strip()
    sentence = re.split(r"[.:](?:\s|$)", text, maxsplit=1)[0]
    return module, " ".join(sentence.split())


def text_of(name: str) -> list[str]:
    """The docstring, as reStructuredText."""
    lines = (inspect.getdoc(get(name).build) or "").split("\n")
    docstrings.process(None, "function", name, _build(name), None, lines)
    return lines


def first_sentence(name: str) -> str:
    """What the overview says of a solver."""
    text = " ".join((inspect.getdoc(get(name).build) or "").split("\n\n")[0].split())
    return docstrings.quiet(re.split(r"(?<=[.])\s|[;:]\s", text, maxsplit=1)[0].rstrip(".:;"))


def options(name: str) -> list[tuple[str, str, str]]:
    """(name, type, default) of the options of a solver's own."""
    found = get(name).options
    parameters = inspect.signature(get(name).build).parameters
    rows = []
    for option, default in found.items():
        kind = parameters[option].annotation if option in parameters else type(default)
        kind = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
        if kind == "_empty":
            kind = type(default).__name__
        rows.append((option, kind.replace("typing.", ""), repr(default)))
    return rows


def call(name: str) -> list[str]:
    """How the solver is asked for."""
    lines = [f'x = fastgen.sample(model, (16, 3, 64, 64), "{name}", steps=20)']
    chosen = [(o, d) for o, _, d in options(name)][:1]
    if chosen:
        (option, default) = chosen[0]
        extra = f"{option}={default}"
        if callable(getattr(fastgen.solvers, name, None)):
            lines.append(
                f"x = fastgen.sample(model, (16, 3, 64, 64), "
                f"fastgen.solvers.{name}({extra}), steps=20)"
            )
        else:
            lines.append(f'x = fastgen.sample(model, (16, 3, 64, 64), "{name}", steps=20, {extra})')
    return lines


def printed_plan(name: str) -> tuple[str, list[str]]:
    """The call and the lines of a plan of some steps."""
    predicts = PREDICTS.get(name, "average_velocity" if get(name).two_times else "noise")
    plan = fastgen.plan(name, LinearVP(), STEPS, start=0.9, end=0.1, predicts=predicts)
    said = f'fastgen.plan("{name}", LinearVP(), steps={STEPS}, start=0.9, end=0.1'
    said += ")" if predicts == "noise" else f', predicts="{predicts}")'
    return said, str(plan).split("\n")


def _block(language: str, lines: list[str], indent: str = "") -> list[str]:
    body = [f"{indent}   {line}".rstrip() for line in lines]
    return [f"{indent}.. code-block:: {language}", "", *body, ""]


def page(name: str) -> str:
    """The page of one solver."""
    entry, facts = get(name), row(name)
    order = "none given by theory" if entry.order is None else str(entry.order)
    if entry.order is not None and facts.stochastic == "yes":
        order += ", in law"
    lines = [name, "=" * len(name), "", f".. index:: single: {name}; solver", ""]
    lines += [*text_of(name), ""]
    lines += [
        f":Order: {order}",
        f":Evaluations per step: {facts.evaluations:g}",
        f":Stochastic: {facts.stochastic}",
        f":Memory: {facts.history} tensors of the state's size besides the state; "
        f"{facts.bytes:g} bytes read and written per element and step (float32)",
        f":Source: {docstrings.quiet(entry.source)}",
        "",
    ]
    lines += _block("python", call(name))
    found = options(name)
    if found:
        lines += ["Options", "-------", "", ".. list-table::", "   :header-rows: 1", ""]
        lines += ["   * - option", "     - type", "     - default"]
        for option, kind, default in found:
            lines += [f"   * - ``{option}``", f"     - ``{kind}``", f"     - ``{default}``"]
        lines.append("")
    public = getattr(fastgen.solvers, name, None)
    if rooms.configurable(public):
        lines += [f".. py:function:: fastgen.solvers.{name}{reference.options_of(public)}", ""]
        lines += ["   The solver with these options, taken wherever its name is.", ""]
    lines += ["Error against evaluations", "-------------------------", ""]
    lines += [f".. figure:: figures/{name}.svg", f"   :alt: {solver_charts.alt(name)}", ""]
    lines += [f"   {solver_charts.caption(name)}", ""]
    said, printed = printed_plan(name)
    lines += ["A plan", "------", "", f"``print({said})``", ""]
    lines += _block("text", printed)
    source = inspect.getsource(_build(name)).rstrip().split("\n")
    lines += [f".. dropdown:: The code, in ``{_build(name).__module__}``", ""]
    lines += _block("python", source, "   ")
    module, title = family(name)
    others = [each for each in names() if family(each)[0] == module and each != name]
    if others:
        links = ", ".join(f":doc:`{each}`" for each in others)
        lines += [f"Of the same family ({docstrings.quiet(title)}): {links}.", ""]
    return "\n".join(lines)


def overview() -> list[str]:
    """The table of all solvers."""
    headers = ("solver", "what it is", "order", "evaluations per step", "stochastic", "history")
    lines = [".. list-table::", "   :header-rows: 1", "   :class: sortable filtered", ""]
    for i, header in enumerate(headers):
        lines.append(f"   {'* -' if i == 0 else '  -'} {header}")
    for name in names():
        facts = row(name)
        cells = (
            f":doc:`{name} </solvers/{name}>`",
            first_sentence(name),
            "none" if facts.order is None else str(facts.order),
            f"{facts.evaluations:g}",
            facts.stochastic,
            str(facts.history),
        )
        for i, cell in enumerate(cells):
            lines.append(f"   {'* -' if i == 0 else '  -'} {cell}")
    return [*lines, ""]


def evaluations_per_step(method: str) -> int:
    """What a step of an error-controlled method costs, counted over many of them."""
    found = fastgen.odeint(
        lambda t, y: -y,
        torch.ones(1, 1),
        [0.0, 1.0],
        method=method,
        max_step=0.01,
        first_step=0.01,
        return_solution=True,
    )
    stats = found.stats
    return round((stats.evaluations / (stats.accepted + stats.rejected)).item())


def adaptive() -> str:
    """The page of solvers that choose their own steps."""
    from fastgen.ode.tableaus import ADAPTIVE

    lines = ["Error-controlled solvers", "========================", ""]
    lines += [
        "Each sample has steps of its own, as long as ``rtol`` and ``atol`` allow; a sample that",
        "has arrived is no longer evaluated. They follow the probability flow: nothing is drawn.",
        "",
    ]
    lines += _block(
        "python", ['x = fastgen.sample(model, (16, 3, 64, 64), "dopri5", rtol=1e-4, atol=1e-4)']
    )
    lines += [".. list-table::", "   :header-rows: 1", "   :class: sortable", ""]
    headers = ("solver", "order", "evaluations per step", "error estimate")
    rows = []
    for name, tableau in ADAPTIVE.items():
        cost = str(evaluations_per_step(name))
        rows.append((f"``{name}``", str(tableau.order), cost, "embedded pair"))
    rows.append(("``dpm_adaptive``", "2 or 3", "2 or 3", "DPM-Solver-12 or -23, in the log-SNR"))
    for cells in (headers, *rows):
        for i, cell in enumerate(cells):
            lines.append(f"   {'* -' if i == 0 else '  -'} {cell}")
    lines += ["", "The same methods integrate any field: `fastgen.odeint`.", ""]
    lines += ["Error against evaluations", "-------------------------", ""]
    lines += [".. figure:: figures/adaptive.svg", "   :alt: Error of each against evaluations", ""]
    lines += [f"   {solver_charts.ADAPTIVE_CAPTION}", ""]
    return "\n".join(lines)


def write(app: Sphinx) -> None:
    """Write the pages below docs/solvers that have changed, and draw the figures that are due."""
    folder = Path(app.srcdir) / "solvers"
    solver_charts.draw_all(folder / "figures")
    pages = {name: page(name) for name in names()}
    pages["adaptive"] = adaptive()
    pages["overview"] = "\n".join(overview())
    for stem, text in pages.items():
        path = folder / f"{stem}.{'inc' if stem == 'overview' else 'rst'}"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    for old in folder.glob("*.rst"):
        if old.stem not in pages:
            old.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the hook: before the gallery's, one of whose examples registers a solver."""
    app.connect("builder-inited", write, priority=400)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
