"""Instructions as JSON and back; floats survive exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple
from typing import Any

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

# Of symbols in instructions, by the names that files have.
_CLASSES: Mapping[str, Any] = {c.__name__: c for c in (Value, Prediction, Normal, Computed)}


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


def from_records(records: Iterable[Mapping[str, Any]]) -> tuple[Instruction, ...]:
    """The inverse of `to_records`."""
    return tuple(_instruction(record) for record in records)


def _instruction(record: Mapping[str, Any]) -> Instruction:
    if "evaluate" in record:
        return Evaluate(Value(record["evaluate"]), record["time"], record["until"])
    if "state" in record:
        return State(Value(record["state"]), record["time"])
    terms = {_symbol(kind, fields): c for kind, fields, c in record["terms"]}
    return Let(Value(record["let"]), Form(terms))


def _symbol(kind: str, fields: list[Any]) -> Symbol:
    """A symbol from its class name and fields. JSON has lists where the fields are tuples."""
    symbol: Symbol = _CLASSES[kind](*(tuple(f) if isinstance(f, list) else f for f in fields))
    return symbol


def function_name(value: object) -> str:
    """The name that stands for an option that is a function.

    Raises:
        TypeError: for what is neither a function nor known to JSON.
    """
    if not callable(value):
        raise TypeError(f"an option cannot be written as JSON: {value!r}")
    function = value if hasattr(value, "__qualname__") else type(value)
    return f"{function.__module__}.{function.__qualname__}"
