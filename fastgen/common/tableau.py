"""Explicit Runge-Kutta methods as data: their Butcher tableaus and their interpolants.

A step of size h from (t, y) with stages i = 0 .. S - 1 is

    k_i = f(t + c_i h, y + h sum_{j<i} a_ij k_j),
    y'  = y + h sum_j b_j k_j,      err = h sum_j e_j k_j,
    y(t + theta h) = y + h sum_j b_j(theta) k_j,   b_j(theta) = sum_d dense_jd theta^(d+1).

An error-controlled tableau ends with the stage at (t + h, y'): its last row is b, and the next
step's first stage is known ("first same as last"). Pairs that lack this stage (Fehlberg's, Heun's)
are given it; it costs nothing but on a rejected step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Tableau:
    """One method.

    c: nodes. a: row i holds a_i0 .. a_i,i-1. b: weights; () where the last row of a holds them,
    because the last stage is at y'. error: weights e of the embedded error estimate, () for a
    method of fixed steps. dense: row j holds the coefficients of b_j(theta). dense_order: the
    global order of the interpolant. name: as `fastgen.odeint` knows it. order: of the solution.
    source: the paper.

    Raises:
        ValueError: naming the coefficients that are too many or too few, or have the wrong sum.
    """

    c: tuple[float, ...]
    a: Rows
    b: tuple[float, ...] = ()
    error: tuple[float, ...] = ()
    dense: Rows = field(default=(), repr=False)
    dense_order: int = 0
    name: str = ""
    order: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        for part, given in (("a", self.a), ("b", self.b), ("error", self.error)):
            if len(given) != len(self.c) and (given or part == "a"):
                raise ValueError(
                    f"Tableau: {part} must have one entry for each of the {len(self.c)} stages, "
                    f"got {len(given)}"
                )
        for i, (node, row) in enumerate(zip(self.c, self.a, strict=True)):
            if len(row) != i or abs(sum(row) - node) > 1e-12:
                raise ValueError(
                    f"Tableau: a[{i}] must have {i} entries that sum to c[{i}]={node}, got {row}"
                )
        if abs(sum(self.weights) - 1) > 1e-12:
            raise ValueError(f"Tableau: the weights b must sum to 1, got {self.weights}")

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
        return _float64([[*row, *[0.0] * (self.stages - len(row))] for row in self.a])

    @cached_property
    def nodes(self) -> Tensor:
        """c as a float64 tensor [S]."""
        return _float64(self.c)

    @cached_property
    def errors(self) -> Tensor:
        """e as a float64 tensor [S]."""
        return _float64(self.error)

    @cached_property
    def polynomials(self) -> Tensor:
        """dense as a float64 tensor [S, degree]."""
        return _float64(self.dense)


def hermite(b: tuple[float, ...]) -> Rows:
    """The cubic through y, y' and their slopes: order 3, from the stages there are."""
    rows = [[0.0, 3 * w, -2 * w] for w in b]
    rows[0] = [1.0, rows[0][1] - 2.0, rows[0][2] + 1.0]
    rows[-1] = [0.0, rows[-1][1] - 1.0, rows[-1][2] + 1.0]
    return tuple(tuple(row) for row in rows)


def _float64(rows: object) -> Tensor:
    import torch  # here: solvers of fixed steps read the numbers alone

    return torch.tensor(rows, dtype=torch.float64, device="cpu")
