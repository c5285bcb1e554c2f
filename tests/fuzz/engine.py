"""Drawing cases with hypothesis, running each in a child, counting what became of them."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import fastgen
from fastgen.schedules import LinearVP
from tests.fuzz.children import Outcome, agree, in_child
from tests.fuzz.operators import altered, copied, recorded
from tests.fuzz.targets import TARGETS
from tests.fuzz.values import mistakes
from tests.modes.entries import model

Report = list[tuple[str, Outcome]]


def _called(name: str, replaced: dict[str, Any]) -> str | None:
    torch.manual_seed(0)  # for drop-ins, which draw from torch
    function, arguments = TARGETS[name]()
    first = function(**{**arguments, **replaced})
    os.environ["FASTGEN_BACKEND"] = "reference"
    torch.manual_seed(0)
    function, arguments = TARGETS[name]()
    return agree(first, function(**{**arguments, **replaced}))


@st.composite
def api_cases(draw: Any) -> tuple[str, Callable[[], str | None]]:
    """A call of the public API with one or two arguments replaced."""
    name = draw(st.sampled_from(sorted(TARGETS)))
    arguments = sorted(TARGETS[name]()[1])
    chosen = draw(st.lists(st.sampled_from(arguments), min_size=1, max_size=2, unique=True))
    replaced = {argument: draw(mistakes()) for argument in chosen}
    shown = ", ".join(f"{k}={_shown(v)}" for k, v in replaced.items())
    return f"{name}({shown})", lambda: _called(name, replaced)


@st.composite
def operator_cases(draw: Any) -> tuple[str, Callable[[], str | None]]:
    """A call of a torch operator with one argument, or one element of one, replaced."""
    calls = _operators()
    name = draw(st.sampled_from(sorted(calls)))
    function, args, kwargs = calls[name]
    places = [*range(len(args)), *kwargs]
    place, mistake, index = draw(st.sampled_from(places)), draw(mistakes()), draw(st.integers(0, 9))

    def case() -> None:
        listed, named = [copied(a) for a in args], {k: copied(v) for k, v in kwargs.items()}
        if isinstance(place, int):
            listed[place] = altered(listed[place], mistake, index)
        else:
            named[place] = altered(named[place], mistake, index)
        function(*listed, **named)

    return f"{name}[{place}]={_shown(mistake)}", case


_recorded: dict[str, Any] = {}


def _operators() -> dict[str, Any]:
    if not _recorded:
        _recorded.update(recorded())
    return _recorded


@st.composite
def plan_cases(draw: Any) -> tuple[str, Callable[[], str | None]]:
    """A plan's JSON with bytes or values replaced; one that is read must run."""
    solver = draw(st.sampled_from(["ddim", "ddpm", "unipc", "dpmpp_2m", "rk4", "deis"]))
    text = fastgen.plan(solver, LinearVP(), 3, start=0.9).to_json()
    if draw(st.booleans()):
        at = draw(st.integers(0, len(text) - 1))
        put = draw(st.text(max_size=3) | st.sampled_from(["", "[", "}", "-", "9" * 30, "NaN"]))
        text = text[:at] + put + text[at + draw(st.integers(0, 3)) :]
    else:
        record = json.loads(text)
        _alter(draw, record)
        text = json.dumps(record)

    def case() -> None:
        plan = fastgen.Plan.from_json(text)
        assert str(plan)
        fastgen.Sampler(model(), plan)((2, 3))

    return f"plan {solver}: {text[:60]!r}", case


def _alter(draw: Any, record: Any) -> None:
    """Replace one value somewhere in it."""
    while True:
        keys = sorted(record) if isinstance(record, dict) else list(range(len(record)))
        if not keys:
            return
        key = draw(st.sampled_from(keys))
        if isinstance(record[key], dict | list) and record[key] and draw(st.integers(0, 4)):
            record = record[key]
            continue
        record[key] = draw(
            st.sampled_from([None, True, -1, 10**30, 1e308, "", "x", [], {}, [[[]]], "NaN"])
            | st.integers(-5, 99)
            | st.floats(allow_nan=False)
        )
        return


KINDS: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
    "api": api_cases,
    "operators": operator_cases,
    "plans": plan_cases,
}


class _OutOfTimeError(Exception):
    """The minutes are over."""


def run(kind: str, examples: int, start: int = 0, minutes: float = 60.0) -> Report:
    """Run so many cases of a kind, or as many as the time allows."""
    found: Report = []
    stop = time.monotonic() + 60 * minutes
    torch.set_num_threads(1)

    @seed(start)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(KINDS[kind]())
    def one(case: tuple[str, Callable[[], str | None]]) -> None:
        if time.monotonic() > stop:
            raise _OutOfTimeError  # else cases would be drawn, and not run, for many times as long
        found.append((case[0], in_child(case[1])))

    with suppress(_OutOfTimeError):
        one()
    return found


def counts(report: Report) -> Counter[str]:
    """How many cases ended in which way."""
    return Counter(outcome.kind for _, outcome in report)


def failures(report: Report) -> list[str]:
    """The cases that must not be: crashes, hangs, results that differ; a line each."""
    bad = ("crash", "hang", "wrong")
    return [f"{o.kind}: {name}: {o.text}" for name, o in report if o.kind in bad]


def unclear(report: Report) -> list[str]:
    """The cases whose error does not tell what to do; a line each."""
    return [f"{name}: {o.text}" for name, o in report if o.kind == "unclear"]


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        strange = type(value) is not torch.Tensor or value.layout is not torch.strided
        what = f"{value.dtype}{list(value.shape) if not value.is_nested else ''}"
        return f"{type(value).__name__} {value.layout} {what}" if strange else what
    return repr(value)[:60]
