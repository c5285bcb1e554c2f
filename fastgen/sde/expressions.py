"""From a method's formula to the stages of a step: symbolic values, their lowering, tables.

A method is a function that is given a `Step` and returns the new state. It works on symbols: the
step h and the unit noises make polynomials, evaluations of drift and diffusion make registers, and
states are sums of polynomials times registers. Each sum that is evaluated becomes one call of the
kernel `stochastic_combine`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from fastgen.kernels.random_combine.contract import MONOMIALS

# Exponents of (z, z') of the kernel's monomials.
EXPONENTS = ((0, 0), (1, 0), (2, 0), (3, 0), (0, 1))
STATE = 0  # the register of the state


class Polynomial:
    """sum of c h^(p / 2) z^a z'^b; keys are (p, a, b), h > 0 the length of a step."""

    def __init__(self, terms: dict[tuple[int, int, int], float]) -> None:
        self.terms = {key: c for key, c in terms.items() if c != 0}

    @staticmethod
    def of(x: Scalar) -> Polynomial:
        """A number as a polynomial."""
        return x if isinstance(x, Polynomial) else Polynomial({(0, 0, 0): float(x)})

    def __add__(self, other: Scalar) -> Polynomial:
        terms = dict(self.terms)
        for key, c in Polynomial.of(other).terms.items():
            terms[key] = terms.get(key, 0.0) + c
        return Polynomial(terms)

    def __mul__(self, other: Scalar) -> Polynomial:
        if not isinstance(other, (Polynomial, int, float)):
            return NotImplemented
        product = Polynomial({})
        for (p, a, b), c in self.terms.items():
            for (q, d, e), k in Polynomial.of(other).terms.items():
                product += Polynomial({(p + q, a + d, b + e): c * k})
        return product

    def __truediv__(self, other: Scalar) -> Polynomial:
        """By a number or a power of h."""
        (((p, a, b), c),) = Polynomial.of(other).terms.items()
        return self * Polynomial({(-p, -a, -b): 1 / c})

    def __pow__(self, n: int) -> Polynomial:
        return math.prod([self] * n, start=Polynomial.of(1.0))

    def __sub__(self, other: Scalar) -> Polynomial:
        return self + Polynomial.of(other) * -1.0

    def __neg__(self) -> Polynomial:
        return self * -1.0

    __radd__, __rmul__ = __add__, __mul__


Scalar: TypeAlias = "Polynomial | float | int"


class Form:
    """sum of polynomials times registers."""

    def __init__(self, terms: dict[int, Polynomial]) -> None:
        self.terms = {register: c for register, c in terms.items() if c.terms}

    def __add__(self, other: Form) -> Form:
        terms = dict(self.terms)
        for register, c in other.terms.items():
            terms[register] = terms[register] + c if register in terms else c
        return Form(terms)

    def __mul__(self, factor: Scalar) -> Form:
        return Form({register: c * factor for register, c in self.terms.items()})

    def __truediv__(self, factor: Scalar) -> Form:
        return Form({register: c / factor for register, c in self.terms.items()})

    def __sub__(self, other: Form) -> Form:
        return self + other * -1.0

    __rmul__ = __mul__


@dataclass
class Evaluate:
    """register = drift, diffusion, or (dg/dy) g at the state in ``at`` and the time t + c h."""

    kind: str  # "f", "g", "gdg"
    at: int
    c: float
    register: int


@dataclass
class Contract:
    """register = the matrix in ``of`` times the vector z (unit 0) or z' (unit 1)."""

    of: int
    unit: int
    register: int


@dataclass
class Combine:
    """One kernel call: registers ``outputs`` from registers ``inputs``.

    powers: tables [M, N, 5] by the power of sqrt(h) that multiplies them.
    """

    outputs: list[int]
    inputs: list[int]
    forms: list[Form]
    powers: dict[int, Tensor] = field(default_factory=dict)

    def build(self, signed: set[int], direction: float) -> None:
        """Make the tables; those of the registers ``signed`` (drifts) point in the direction."""
        self.inputs = sorted({register for form in self.forms for register in form.terms})
        for j, form in enumerate(self.forms):
            for register, polynomial in form.terms.items():
                for (p, *exponents), c in polynomial.terms.items():
                    shape = len(self.outputs), len(self.inputs), MONOMIALS
                    table = self.powers.setdefault(p, torch.zeros(shape, dtype=torch.float64))
                    k = EXPONENTS.index((exponents[0], exponents[1]))
                    sign = direction if register in signed else 1.0
                    table[j, self.inputs.index(register), k] += c * sign

    def tables(self, lengths: Tensor) -> Tensor:
        """The tables for steps of lengths h [...], float64 [..., M, N, 5]."""
        roots = square_root(lengths)[..., None, None, None]
        total = lengths.new_zeros(())
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


Instruction: TypeAlias = Evaluate | Contract | Combine


@dataclass(frozen=True)
class Program:
    """The instructions of a step; ``result`` is the register of the new state."""

    instructions: list[Instruction]
    result: int
    registers: int

    @property
    def combines(self) -> list[Combine]:
        """The kernel calls."""
        return [i for i in self.instructions if isinstance(i, Combine)]

    @property
    def units(self) -> int:
        """How many unit noises a step reads: z, or z and z'."""
        contracted = [i.unit + 1 for i in self.instructions if isinstance(i, Contract)]
        return max([c.units for c in self.combines] + contracted)

    @property
    def evaluations(self) -> int:
        """Evaluations of drift and diffusion in a step."""
        return sum(isinstance(i, Evaluate) for i in self.instructions)


class Step:
    """What a method is given: symbols of the step from t to t + h.

    y: the state. h: the step. dW = sqrt(h) z: the motion's increment. I10: the integral of
    W_s - W_t ds over the step, h^(3/2) (z + z' / sqrt(3)) / 2 (Kloeden and Platen 1992, 10.4).
    """

    def __init__(self, noise_type: str, sde_type: str) -> None:
        self.noise_type, self.ito = noise_type, sde_type == "ito"
        self.y = Form({STATE: Polynomial.of(1.0)})
        self.sqrt_h = Polynomial({(1, 0, 0): 1.0})
        self.h = Polynomial({(2, 0, 0): 1.0})
        z, other = Polynomial({(0, 1, 0): 1.0}), Polynomial({(0, 0, 1): 1.0})
        self.dW = self.sqrt_h * z
        self.I10 = self.h * self.sqrt_h * (z + other * (1 / math.sqrt(3))) * 0.5
        self.registers = 1
        self.instructions: list[Instruction] = []

    def f(self, x: Form, c: float = 0.0) -> Form:
        """The drift at state x and time t + c h."""
        return self._evaluate("f", x, c)

    def g(self, x: Form, c: float = 0.0) -> Form:
        """The diffusion."""
        return self._evaluate("g", x, c)

    def gdg(self, x: Form, c: float = 0.0) -> Form:
        """(dg/dy) g, the diffusion's derivative along itself."""
        return self._evaluate("gdg", x, c)

    def let(self, x: Form) -> Form:
        """The value x, in a register."""
        if list(x.terms.values()) and self._is_register(x):
            return x
        register = self._register()
        self.instructions.append(Combine([register], [], [x]))
        return Form({register: Polynomial.of(1.0)})

    @staticmethod
    def _is_register(x: Form) -> bool:
        return len(x.terms) == 1 and next(iter(x.terms.values())).terms == {(0, 0, 0): 1.0}

    def _register(self) -> int:
        self.registers += 1
        return self.registers - 1

    def _evaluate(self, kind: str, x: Form, c: float) -> Form:
        (at,) = self.let(x).terms
        register = self._register()
        self.instructions.append(Evaluate(kind, at, c, register))
        return Form({register: Polynomial.of(1.0)})


def lower(
    method: Callable[[Step], Form],
    noise_type: str,
    sde_type: str,
    direction: float,
    matrix: bool,
) -> Program:
    """The program of a method's step.

    Args:
        method: the formula.
        noise_type, sde_type: what it is told.
        direction: 1 forwards in time, -1 backwards. Backwards, y solves the equation of reversed
            time, whose drift is -f.
        matrix: the diffusion is a matrix for each sample, and meets z and z' in products.
    """
    step = Step(noise_type, sde_type)
    result = step.let(method(step))
    (register,) = result.terms
    if matrix:
        _contract(step)
    _join(step)
    signed = {i.register for i in step.instructions if isinstance(i, Evaluate) and i.kind == "f"}
    program = Program(step.instructions, register, step.registers)
    for combine in program.combines:
        combine.build(signed, direction)
    return program


def _contract(step: Step) -> None:
    """Replace each term z G of a matrix G by the vector G z, as soon as G is there."""
    matrices = {i.register for i in step.instructions if isinstance(i, Evaluate) and i.kind == "g"}
    products: dict[tuple[int, int], int] = {}
    for combine in [i for i in step.instructions if isinstance(i, Combine)]:
        for n, form in enumerate(combine.forms):
            changed = Form({r: c for r, c in form.terms.items() if r not in matrices})
            for of in matrices & set(form.terms):
                for (p, *exponents), c in form.terms[of].terms.items():
                    unit = ((1, 0), (0, 1)).index((exponents[0], exponents[1]))
                    if (of, unit) not in products:
                        products[of, unit] = step._register()
                    changed += Form({products[of, unit]: Polynomial({(p, 0, 0): c})})
            combine.forms[n] = changed
    for (of, unit), register in products.items():
        made = next(
            n for n, i in enumerate(step.instructions) if getattr(i, "register", None) == of
        )
        step.instructions.insert(made + 1, Contract(of, unit, register))


def _join(step: Step) -> None:
    """Let kernel calls whose inputs are there earlier be part of an earlier call."""
    kept: list[Instruction] = []
    for instruction in step.instructions:
        if isinstance(instruction, Combine):
            earlier = [n for n, i in enumerate(kept) if isinstance(i, Combine)]
            if earlier:
                known = {STATE}
                for other in kept[: earlier[-1]]:
                    made = other.outputs if isinstance(other, Combine) else [other.register]
                    known |= set(made)
                call = kept[earlier[-1]]
                assert isinstance(call, Combine)
                if all(set(form.terms) <= known for form in instruction.forms):
                    call.outputs += instruction.outputs
                    call.forms += instruction.forms
                    continue
        kept.append(instruction)
    step.instructions[:] = kept


def square_root(x: Tensor) -> Tensor:
    """Correctly rounded: on CPUs torch's is off by an ulp where MKL computes it."""
    if x.device.type == "cpu":
        return torch.from_numpy(np.asarray(np.sqrt(x.numpy())))
    return torch.sqrt(x)
