"""What a method's formula is written in: symbols of one step, and arithmetic on them.

The step h and the unit noises make polynomials. Values of drift and diffusion, and states, are
registers. A state of the method is an expression: a sum of polynomials times registers.
`fastgen.sde.recipe` makes the work of a step from it.
"""

from __future__ import annotations

import math
from typing import TypeAlias


class Polynomial:
    """sum of c h^(p / 2) z^a z'^b; keys are (p, a, b), h > 0 the length of a step.

    Powers are of sqrt(h): the increment of a Brownian motion is sqrt(h) z.
    """

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
        # One term only: the quotient of sums is not a polynomial.
        (((p, a, b), c),) = Polynomial.of(other).terms.items()
        return self * Polynomial({(-p, -a, -b): 1 / c})

    # Repeated products, so that h^n has the bits of h * h * ...
    def __pow__(self, n: int) -> Polynomial:
        return math.prod([self] * n, start=Polynomial.of(1.0))

    def __sub__(self, other: Scalar) -> Polynomial:
        return self + Polynomial.of(other) * -1.0

    def __neg__(self) -> Polynomial:
        return self * -1.0

    __radd__, __rmul__ = __add__, __mul__


Scalar: TypeAlias = "Polynomial | float | int"


class Expression:
    """sum of polynomials times registers."""

    def __init__(self, terms: dict[int, Polynomial]) -> None:
        self.terms = {register: c for register, c in terms.items() if c.terms}

    def __add__(self, other: Expression) -> Expression:
        terms = dict(self.terms)
        for register, c in other.terms.items():
            terms[register] = terms[register] + c if register in terms else c
        return Expression(terms)

    def __mul__(self, factor: Scalar) -> Expression:
        return Expression({register: c * factor for register, c in self.terms.items()})

    def __truediv__(self, factor: Scalar) -> Expression:
        return Expression({register: c / factor for register, c in self.terms.items()})

    def __sub__(self, other: Expression) -> Expression:
        return self + other * -1.0

    __rmul__ = __mul__
