"""Instructions as JSON and back; floats survive exactly, and nothing is read that does not fit."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple
from typing import Any

from fastgen.common.errors import nearest
from fastgen.plans.forms import (
    Computed,
    Evaluate,
    Form,
    Instruction,
    Let,
    Normal,
    Prediction,
    State,
    Symbol,
    Value,
)

REMEDY = "give the whole text that Plan.to_json wrote"
_LARGEST = 2**31 - 1  # number of a register or an evaluation
_LAST_DRAW = 2**32 - 1  # of the noise contract


def to_records(instructions: Iterable[Instruction]) -> list[dict[str, Any]]:
    """Each instruction as a dictionary of numbers, lists and text."""
    return [_record(instruction) for instruction in instructions]


def _record(instruction: Instruction) -> dict[str, Any]:
    if isinstance(instruction, Evaluate):
        index, time, until = instruction.x.index, instruction.time, instruction.until
        return {"evaluate": index, "time": time, "until": until}
    if isinstance(instruction, State):
        return {"state": instruction.value.index, "time": instruction.time}
    form = instruction.form.terms.items()
    terms = [[type(symbol).__name__, list(astuple(symbol)), c] for symbol, c in form]
    return {"let": instruction.value.index, "terms": terms}


def parse(text: str | bytes) -> Any:
    """What JSON text says, or a ValueError: also for nesting and for numbers beyond all use."""
    if not isinstance(text, str | bytes | bytearray):
        raise ValueError(f"expected text, got {type(text).__name__}; {REMEDY}")
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError(f"not JSON of a plan (nested too deeply); {REMEDY}") from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error}); {REMEDY}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return found


def keys(value: Any, place: str, wanted: Iterable[str]) -> dict[str, Any]:
    """The value, if it is an object with exactly these keys."""
    names = set(wanted)
    if not isinstance(value, dict):
        raise wrong(value, place, f"an object with {', '.join(sorted(names))}")
    for name in sorted(names - value.keys()):
        raise ValueError(f"{place}: {name!r} is missing; {REMEDY}")
    for name in value.keys() - names:
        raise ValueError(f"{place}: unknown key {reprlib.repr(name)}; {nearest(name, names)}")
    return value


def number(value: Any, place: str, low: float = -math.inf, high: float = math.inf) -> float:
    """The value, if it is a finite number from low to high, as a float."""
    if type(value) in (int, float) and low <= value <= high and abs(value) < _OVERFLOW:
        return float(value)
    bounds = "" if high == math.inf else f" from {low:g} to {high:g}"
    raise wrong(value, place, f"a finite number{bounds}")


_OVERFLOW = 2**1024  # of floats; an int, which Python compares with both exactly


def whole(value: Any, place: str, low: int = 0, high: int = _LARGEST) -> int:
    """The value, if it is a whole number from low to high."""
    if type(value) is int and low <= value <= high:
        return value
    raise wrong(value, place, f"a whole number from {low} to {high}")


def items(value: Any, place: str, counts: Iterable[int] = ()) -> list[Any]:
    """The value, if it is a list, of one of these lengths where some are given."""
    allowed = list(counts)
    if isinstance(value, list) and (not allowed or len(value) in allowed):
        return value
    size = f" of {' or '.join(map(str, allowed))} items" if allowed else ""
    raise wrong(value, place, f"a list{size}")


def wrong(value: Any, place: str, expected: str) -> ValueError:
    """The error for a value of another kind."""
    return ValueError(f"{place}: expected {expected}, got {reprlib.repr(value)}; {REMEDY}")


def from_records(records: Any, place: str) -> tuple[Instruction, ...]:
    """The inverse of `to_records`.

    Raises:
        ValueError: naming the place of what is no instruction.
    """
    return tuple(_instruction(r, f"{place}[{k}]") for k, r in enumerate(items(records, place)))


def _instruction(record: Any, place: str) -> Instruction:
    kind = next((k for k in _READERS if isinstance(record, dict) and k in record), None)
    if kind is None:
        raise wrong(record, place, f"an object with one of {', '.join(_READERS)}")
    return _READERS[kind](record, place)


def _evaluate(record: Any, place: str) -> Instruction:
    keys(record, place, ("evaluate", "time", "until"))
    until = record["until"]
    return Evaluate(
        Value(whole(record["evaluate"], f"{place}.evaluate")),
        number(record["time"], f"{place}.time", 0, 1),
        None if until is None else number(until, f"{place}.until", 0, 1),
    )


def _state(record: Any, place: str) -> Instruction:
    keys(record, place, ("state", "time"))
    value = Value(whole(record["state"], f"{place}.state"))
    return State(value, number(record["time"], f"{place}.time", 0, 1))


def _let(record: Any, place: str) -> Instruction:
    keys(record, place, ("let", "terms"))
    value = Value(whole(record["let"], f"{place}.let"))
    terms: dict[Symbol, float] = {}
    for k, term in enumerate(items(record["terms"], f"{place}.terms")):
        at = f"{place}.terms[{k}]"
        kind, fields, c = items(term, at, (3,))
        if not isinstance(kind, str) or kind not in _SYMBOLS:
            raise wrong(kind, f"{at}[0]", f"one of {', '.join(_SYMBOLS)}")
        symbol = _SYMBOLS[kind](fields, f"{at}[1]")
        if symbol in terms:
            raise ValueError(f"{at}: the same symbol twice in one sum; {REMEDY}")
        terms[symbol] = number(c, f"{at}[2]")
    return Let(value, Form(terms))


_READERS: Mapping[str, Callable[[Any, str], Instruction]] = {
    "let": _let,
    "evaluate": _evaluate,
    "state": _state,
}


def _value(fields: Any, at: str) -> Symbol:
    return Value(whole(items(fields, at, (1,))[0], at))


def _prediction(fields: Any, at: str) -> Symbol:
    evaluation, quantity, *rest = items(fields, at, (2, 3))
    if not isinstance(quantity, str):
        raise wrong(quantity, f"{at}[1]", "a name")
    if rest and not isinstance(rest[0], bool):
        raise wrong(rest[0], f"{at}[2]", "true or false")
    return Prediction(whole(evaluation, f"{at}[0]"), quantity, *rest)


def _normal(fields: Any, at: str) -> Symbol:
    draw, start, end = items(fields, at, (3,))
    return Normal(
        whole(draw, f"{at}[0]", 1, _LAST_DRAW),
        number(start, f"{at}[1]", 0, 1),
        number(end, f"{at}[2]", 0, 1),
    )


def _computed(fields: Any, at: str) -> Symbol:
    evaluation, kind, draw, numbers = items(fields, at, (4,))
    if not isinstance(kind, str):
        raise wrong(kind, f"{at}[1]", "a name")
    return Computed(
        whole(evaluation, f"{at}[0]"),
        kind,
        whole(draw, f"{at}[2]", 1, _LAST_DRAW),
        tuple(number(x, f"{at}[3][{k}]") for k, x in enumerate(items(numbers, f"{at}[3]"))),
    )


# Of symbols in instructions, by the names that files have.
_SYMBOLS: Mapping[str, Callable[[Any, str], Symbol]] = {
    "Value": _value,
    "Prediction": _prediction,
    "Normal": _normal,
    "Computed": _computed,
}


def function_name(value: object) -> str:
    """The name that stands for an option that is a function.

    Raises:
        TypeError: for what is neither a function nor known to JSON.
    """
    if not callable(value):
        raise TypeError(f"an option cannot be written as JSON: {value!r}")
    function = value if hasattr(value, "__qualname__") else type(value)
    return f"{function.__module__}.{function.__qualname__}"
