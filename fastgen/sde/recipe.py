"""From a method's formula to the work of a step.

The formula is called once, with symbols. What it asks for becomes a list in order: calls of drift
and diffusion, and sums. A sum is one call of the kernel `stochastic_combine`, whose table of
coefficients follows from the step's length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from fastgen.common.rounding import square_root
from fastgen.common.transforms import outside_transforms
from fastgen.kernels.stochastic_combine.contract import MONOMIALS
from fastgen.sde.expressions import Expression, Polynomial

# Exponents of (z, z') of the kernel's monomials.
EXPONENTS = ((0, 0), (1, 0), (2, 0), (3, 0), (0, 1))
STATE = 0  # the register of the state


@dataclass
class FieldCall:
    """register = drift, diffusion, or (dg/dy) g at the state in ``at`` and the time t + c h."""

    kind: str  # "f", "g", "gdg"
    at: int
    c: float
    register: int


@dataclass
class MatrixProduct:
    """register = the matrix in ``of`` times the vector z (unit 0) or z' (unit 1)."""

    of: int
    unit: int
    register: int


@dataclass
class Combine:
    """One kernel call: registers ``outputs`` from registers ``inputs``, each by one of ``sums``.

    powers: tables [M, N, 5] by the power of sqrt(h) that multiplies them.
    """

    outputs: list[int]
    inputs: list[int]
    sums: list[Expression]
    powers: dict[int, Tensor] = field(default_factory=dict)

    @outside_transforms
    def build(self, signed: set[int], direction: float) -> None:
        """Make the tables; those of the registers ``signed`` (drifts) point in the direction."""
        self.inputs = sorted({register for x in self.sums for register in x.terms})
        for j, x in enumerate(self.sums):
            for register, polynomial in x.terms.items():
                for (p, *exponents), c in polynomial.terms.items():
                    shape = len(self.outputs), len(self.inputs), MONOMIALS
                    table = self.powers.setdefault(
                        p, torch.zeros(shape, dtype=torch.float64, device="cpu")
                    )
                    k = EXPONENTS.index((exponents[0], exponents[1]))
                    sign = direction if register in signed else 1.0
                    table[j, self.inputs.index(register), k] += c * sign

    @outside_transforms
    def tables(self, lengths: Tensor) -> Tensor:
        """The tables for steps of lengths h [...], float64 [..., M, N, 5]."""
        roots = square_root(lengths)[..., None, None, None]
        total = lengths.new_zeros(())
        # Powers by repeated products in a fixed order: a step's table has the same bits whether it
        # is computed alone, for a whole grid or for each sample.
        for p, table in sorted(self.powers.items()):
            power = torch.ones_like(roots)
            for _ in range(p):
                power = power * roots
            total = total + power * table.to(lengths.device)
        return total

    @property
    def units(self) -> int:
        """How many unit noises it reads."""
        used = [
            bool((table[..., k] != 0).any()) for table in self.powers.values() for k in (1, 2, 3)
        ]
        second = any(bool((table[..., 4] != 0).any()) for table in self.powers.values())
        return 2 if second else int(any(used))


RecipeLine: TypeAlias = FieldCall | MatrixProduct | Combine


@dataclass(frozen=True)
class StepRecipe:
    """The lines of a step; ``result`` is the register of the new state."""

    lines: list[RecipeLine]
    result: int
    registers: int

    @property
    def combines(self) -> list[Combine]:
        """The kernel calls."""
        return [i for i in self.lines if isinstance(i, Combine)]

    @property
    def units(self) -> int:
        """How many unit noises a step reads: z, or z and z'."""
        products = [i.unit + 1 for i in self.lines if isinstance(i, MatrixProduct)]
        return max([c.units for c in self.combines] + products)

    @property
    def evaluations(self) -> int:
        """Evaluations of drift and diffusion in a step."""
        return sum(isinstance(i, FieldCall) for i in self.lines)


class StepSymbols:
    """What a method is given: symbols of the step from t to t + h.

    y: the state. h: the step. dW = sqrt(h) z: the motion's increment. I10: the integral of
    W_s - W_t ds over the step, h^(3/2) (z + z' / sqrt(3)) / 2 (Kloeden and Platen 1992, 10.4).
    """

    def __init__(self, noise_type: str, sde_type: str) -> None:
        self.noise_type, self.ito = noise_type, sde_type == "ito"
        self.y = Expression({STATE: Polynomial.of(1.0)})
        self.sqrt_h = Polynomial({(1, 0, 0): 1.0})
        self.h = Polynomial({(2, 0, 0): 1.0})
        z, other = Polynomial({(0, 1, 0): 1.0}), Polynomial({(0, 0, 1): 1.0})
        self.dW = self.sqrt_h * z
        self.I10 = self.h * self.sqrt_h * (z + other * (1 / math.sqrt(3))) * 0.5
        self.registers = 1
        self.lines: list[RecipeLine] = []

    def f(self, x: Expression, c: float = 0.0) -> Expression:
        """The drift at state x and time t + c h."""
        return self._evaluate("f", x, c)

    def g(self, x: Expression, c: float = 0.0) -> Expression:
        """The diffusion."""
        return self._evaluate("g", x, c)

    def gdg(self, x: Expression, c: float = 0.0) -> Expression:
        """(dg/dy) g, the diffusion's derivative along itself."""
        return self._evaluate("gdg", x, c)

    def let(self, x: Expression) -> Expression:
        """The value x, in a register."""
        if self._is_register(x):  # already the value of one
            return x
        register = self.new_register()
        self.lines.append(Combine([register], [], [x]))
        return Expression({register: Polynomial.of(1.0)})

    @staticmethod
    def _is_register(x: Expression) -> bool:
        return len(x.terms) == 1 and next(iter(x.terms.values())).terms == {(0, 0, 0): 1.0}

    def new_register(self) -> int:
        """The number of a register that nothing else has."""
        self.registers += 1
        return self.registers - 1

    def _evaluate(self, kind: str, x: Expression, c: float) -> Expression:
        (at,) = self.let(x).terms
        register = self.new_register()
        self.lines.append(FieldCall(kind, at, c, register))
        return Expression({register: Polynomial.of(1.0)})


def recipe_of(
    method: Callable[[StepSymbols], Expression],
    noise_type: str,
    sde_type: str,
    direction: float,
    matrix: bool,
) -> StepRecipe:
    """The recipe of a method's step.

    Args:
        method: the formula.
        noise_type, sde_type: what it is told.
        direction: 1 forwards in time, -1 backwards. Backwards, y solves the equation of reversed
            time, whose drift is -f.
        matrix: the diffusion is a matrix for each sample, and meets z and z' in products.
    """
    step = StepSymbols(noise_type, sde_type)
    result = step.let(method(step))
    (register,) = result.terms
    if matrix:
        _multiply(step)
    _join(step)
    signed = {i.register for i in step.lines if isinstance(i, FieldCall) and i.kind == "f"}
    recipe = StepRecipe(step.lines, register, step.registers)
    for combine in recipe.combines:
        combine.build(signed, direction)
    return recipe


def _multiply(step: StepSymbols) -> None:
    """Replace each term z G of a matrix G by the vector G z, as soon as G is there.

    The kernel multiplies element by element and knows no matrices.
    """
    matrices = {i.register for i in step.lines if isinstance(i, FieldCall) and i.kind == "g"}
    products: dict[tuple[int, int], int] = {}
    for combine in [i for i in step.lines if isinstance(i, Combine)]:
        for n, x in enumerate(combine.sums):
            changed = Expression({r: c for r, c in x.terms.items() if r not in matrices})
            for of in matrices & set(x.terms):
                for (p, *exponents), c in x.terms[of].terms.items():
                    unit = ((1, 0), (0, 1)).index((exponents[0], exponents[1]))
                    if (of, unit) not in products:
                        products[of, unit] = step.new_register()
                    changed += Expression({products[of, unit]: Polynomial({(p, 0, 0): c})})
            combine.sums[n] = changed
    for (of, unit), register in products.items():
        made = next(n for n, i in enumerate(step.lines) if getattr(i, "register", None) == of)
        step.lines.insert(made + 1, MatrixProduct(of, unit, register))


def _join(step: StepSymbols) -> None:
    """Let sums be part of the kernel call before them, if all that they read is there by then.

    Each call reads the whole state once more, so fewer calls are less memory traffic.
    """
    kept: list[RecipeLine] = []
    for line in step.lines:
        calls = [n for n, i in enumerate(kept) if isinstance(i, Combine)]
        if isinstance(line, Combine) and calls:
            known = {STATE}
            for other in kept[: calls[-1]]:
                known |= set(other.outputs if isinstance(other, Combine) else [other.register])
            call = kept[calls[-1]]
            assert isinstance(call, Combine)
            if all(set(x.terms) <= known for x in line.sums):
                call.outputs += line.outputs
                call.sums += line.sums
                continue
        kept.append(line)
    step.lines[:] = kept
