"""Symbolic values: linear forms over registers, predictions and noises, and the instructions.

Symbols are keys of dictionaries that plans of many steps look into a million times, so each has
the hash of its own number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Value:
    """A register: the initial state (index 0) or a materialised form."""

    index: int

    def __hash__(self) -> int:
        return 4 * self.index


@dataclass(frozen=True, order=True)
class Prediction:
    """One quantity of one network evaluation; of the unguided branch alone if said so."""

    evaluation: int
    quantity: str
    unconditional: bool = False

    def __hash__(self) -> int:
        return 4 * self.evaluation + 1


@dataclass(frozen=True, order=True)
class Normal:
    """Unit Gaussian noise number ``draw`` of the run, for the time interval [end, start]."""

    draw: int
    start: float
    end: float

    def __hash__(self) -> int:
        return 4 * self.draw + 2


@dataclass(frozen=True)
class Computed:
    """A tensor that is not linear in the output of an evaluation and in noise ``draw``.

    kind: "learned_noise" or "langevin"; numbers: what it needs besides (see `Builder`).
    """

    evaluation: int
    kind: str
    draw: int
    numbers: tuple[float, ...]


@dataclass(frozen=True)
class Increment:
    """What noise ``draw`` is on a Brownian path: its unit increment over [end, start]."""

    draw: int
    start: float
    end: float


Symbol: TypeAlias = Value | Prediction | Normal | Computed | Increment


class MissingLimitError(ValueError):
    """A coefficient that is not finite, at an end of the path where alpha or sigma is 0."""


class Form:
    """An immutable linear form: float64 coefficients times symbols. Ordinary arithmetic."""

    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[Symbol, float]) -> None:
        self.terms = {symbol: float(c) for symbol, c in terms.items() if c != 0}

    def __add__(self, other: Form | float) -> Form:
        if not isinstance(other, Form):
            if other == 0:  # so that sum() works
                return self
            raise TypeError(f"a form can be added to forms only, not to {other!r}")
        terms = dict(self.terms)
        for symbol, c in other.terms.items():
            total = terms.get(symbol, 0.0) + c
            if total != 0:
                terms[symbol] = total
            else:
                terms.pop(symbol, None)
        return _form(terms)

    __radd__ = __add__

    def __mul__(self, factor: float) -> Form:
        if isinstance(factor, Form):
            raise TypeError("the product of two forms is not linear")
        if not math.isfinite(factor):
            raise MissingLimitError(f"coefficient {factor!r} in a solver: a limit is missing there")
        factor = float(factor)
        products = {symbol: c * factor for symbol, c in self.terms.items()}
        return _form(products) if all(products.values()) else Form(products)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Form:
        return self * (1.0 / divisor)

    def __neg__(self) -> Form:
        return self * -1.0

    def __sub__(self, other: Form) -> Form:
        return self + -other

    def __repr__(self) -> str:
        return " ".join(f"{c:+.6g}*{name(symbol)}" for symbol, c in self.terms.items()) or "0"


def _form(terms: dict[Symbol, float]) -> Form:
    """The form of coefficients that are floats and not 0."""
    form = Form.__new__(Form)
    form.terms = terms
    return form


def name(symbol: Symbol) -> str:
    """The symbol as `print(plan)` shows it: x3, data2, z1."""
    if isinstance(symbol, Value):
        return f"x{symbol.index}"
    if isinstance(symbol, Prediction):
        mark = "'" if symbol.unconditional else ""
        return f"{symbol.quantity}{symbol.evaluation}{mark}"
    if isinstance(symbol, Computed):
        return f"{symbol.kind}{symbol.evaluation}"
    return f"z{symbol.draw}"


@dataclass(frozen=True)
class Evaluate:
    """Call the network on register ``x`` at ``time``.

    until: the second time of networks that predict the average velocity from ``time`` to there.
    """

    x: Value
    time: float
    until: float | None = None


@dataclass(frozen=True)
class Let:
    """Give a form a register."""

    value: Value
    form: Form


@dataclass(frozen=True)
class State:
    """Register ``value`` is the solver's state at ``time`` (trajectories, callbacks)."""

    value: Value
    time: float


Instruction: TypeAlias = Evaluate | Let | State
