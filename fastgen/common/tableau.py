"""Explicit Runge-Kutta methods as data: their Butcher tableaus and their interpolants.

A step of size h from (t, y) with stages i = 0 .. S - 1 is

    k_i = f(t + c_i h, y + h sum_{j<i} a_ij k_j),
    y'  = y + h sum_j b_j k_j,      err = h sum_j e_j k_j,
    y(t + theta h) = y + h sum_j b_j(theta) k_j,   b_j(theta) = sum_d dense_jd theta^(d+1).

Every error-controlled tableau here ends with the stage at (t + h, y'), so that its last row is b
and the next step's first stage is known ("first same as last"). Pairs that lack this stage
(Fehlberg's, Heun's) are given it; it costs nothing but on a rejected step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Tableau:
    """One method.

    name: as `fastgen.odeint` knows it. order: of the solution. a: row i holds a_i0 .. a_i,i-1.
    c: nodes. error: weights e of the embedded error estimate, () for a method of fixed steps.
    dense: row j holds the coefficients of b_j(theta); dense_order: the global order of the
    interpolant. b: weights, only where the last stage is not at y'. source: the paper.
    """

    name: str
    order: int
    a: Rows
    c: tuple[float, ...]
    error: tuple[float, ...] = ()
    dense: Rows = field(default=(), repr=False)
    dense_order: int = 0
    b: tuple[float, ...] = ()
    source: str = ""

    @property
    def stages(self) -> int:
        """Number of stages, with the one that the next step begins with."""
        return len(self.c)

    @property
    def adaptive(self) -> bool:
        """Whether there is an error estimate."""
        return bool(self.error)

    @property
    def weights(self) -> tuple[float, ...]:
        """b, one for every stage."""
        return self.b or (*self.a[-1], 0.0)

    @cached_property
    def matrix(self) -> Tensor:
        """a as a float64 tensor [S, S]."""
        rows = [[*row, *[0.0] * (self.stages - len(row))] for row in self.a]
        return torch.tensor(rows, dtype=torch.float64)

    @cached_property
    def nodes(self) -> Tensor:
        """c as a float64 tensor [S]."""
        return torch.tensor(self.c, dtype=torch.float64)

    @cached_property
    def errors(self) -> Tensor:
        """e as a float64 tensor [S]."""
        return torch.tensor(self.error, dtype=torch.float64)

    @cached_property
    def polynomials(self) -> Tensor:
        """dense as a float64 tensor [S, degree]."""
        return torch.tensor(self.dense, dtype=torch.float64)


def hermite(b: tuple[float, ...]) -> Rows:
    """The cubic through y, y' and their slopes: order 3, from the stages there are."""
    rows = [[0.0, 3 * w, -2 * w] for w in b]
    rows[0] = [1.0, rows[0][1] - 2.0, rows[0][2] + 1.0]
    rows[-1] = [0.0, rows[-1][1] - 1.0, rows[-1][2] + 1.0]
    return tuple(tuple(row) for row in rows)
