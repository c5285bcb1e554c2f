"""What the instructions of a plan must be, whoever wrote them: read only what is there already."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fastgen.common.errors import nearest
from fastgen.plans.builder import PREDICTED
from fastgen.plans.forms import (
    Computed,
    Evaluate,
    Instruction,
    Let,
    Normal,
    Prediction,
    Symbol,
    Value,
    name,
)

# How many numbers each kind of `Computed` has.
COMPUTED: Mapping[str, int] = {"learned_noise": 2, "langevin": 1}


def check_instructions(instructions: Sequence[Instruction], result: Value) -> None:
    """Refuse instructions that cannot be carried out in their order.

    Every register is written once, before it is read; predictions are of evaluations made before;
    a draw is one noise over one interval; coefficients are finite; the network is evaluated.

    Raises:
        ValueError: naming the instruction.
    """
    known, intervals, evaluations = {Value(0)}, dict[int, Symbol](), 0
    for k, i in enumerate(instructions):
        if isinstance(i, Let):
            if i.value in known:
                raise ValueError(f"instruction {k}: {name(i.value)} is written a second time")
            if not i.form.terms:
                raise ValueError(f"instruction {k}: {name(i.value)} is a sum without terms")
            for symbol, c in i.form.terms.items():
                if isinstance(symbol, Value):
                    fault = "" if symbol in known else "is read before it is written"
                else:
                    fault = _fault(symbol, evaluations, intervals)
                if fault or not math.isfinite(c):
                    fault = fault or f"has the coefficient {c!r}, which is not finite"
                    raise ValueError(f"instruction {k}: {name(symbol)} {fault}")
            known.add(i.value)
            continue
        read = i.x if isinstance(i, Evaluate) else i.value
        if read not in known:
            raise ValueError(f"instruction {k}: {name(read)} is read before it is written")
        evaluations += isinstance(i, Evaluate)
    if not evaluations:
        raise ValueError("instructions: the network is evaluated nowhere")
    if result not in known:
        raise ValueError(f"result: {name(result)} is no register of the plan")


def _fault(symbol: Symbol, evaluations: int, intervals: dict[int, Symbol]) -> str:
    """What is wrong with a symbol that is no register; intervals: the noise of each draw so far."""
    if isinstance(symbol, Prediction | Computed) and not 0 <= symbol.evaluation < evaluations:
        return f"is of evaluation {symbol.evaluation}, of which {evaluations} are made before"
    if isinstance(symbol, Prediction):
        if symbol.quantity not in PREDICTED:
            return f"is of an unknown quantity; {nearest(symbol.quantity, PREDICTED)}"
        return ""
    if isinstance(symbol, Computed):
        if symbol.kind not in COMPUTED:
            return f"is of an unknown kind; {nearest(symbol.kind, COMPUTED)}"
        if len(symbol.numbers) != COMPUTED[symbol.kind] or not min(symbol.numbers) >= 0:
            return f"has the numbers {symbol.numbers}, expected {COMPUTED[symbol.kind]} >= 0"
    if isinstance(symbol, Normal | Computed):
        other = intervals.setdefault(symbol.draw, symbol)
        if other != symbol:
            return f"is draw {symbol.draw}, which {name(other)} of another interval or kind is too"
    return ""
