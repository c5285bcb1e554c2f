"""What the implementations of exact assignment share: problems, what is asked, and solutions.

An implementation is a function `solve(problem, options)` that pairs each of n points with another
of m >= n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# The certified gap relative to the cost at which float32 and float64 problems count as solved.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
# Up to so many dimensions the costs of points are computed when they are needed.
POINTS_UP_TO = 8
# Sums of costs that are larger do not fit.
LARGE = 1e280


@dataclass(frozen=True)
class Problem:
    """Clouds [N, n, d] and [N, m, d], or a matrix [N, n, m], in float32 or float64.

    On the CPU unless made with on_device=True. `device`: of the arguments.
    """

    x0: Tensor | None
    x1: Tensor | None
    matrix: Tensor | None
    root: bool
    device: torch.device
    names: tuple[str, str] = ("x0", "x1")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """N, n and m."""
        if self.matrix is not None:
            count, n, m = self.matrix.shape
            return count, n, m
        assert self.x0 is not None
        assert self.x1 is not None
        return len(self.x0), self.x0.shape[1], self.x1.shape[1]

    @property
    def swapped(self) -> Problem:
        """The same problem with the clouds in the other order."""
        matrix = None if self.matrix is None else self.matrix.mT
        return Problem(self.x1, self.x0, matrix, self.root, self.device, self.names[::-1])


@dataclass(frozen=True)
class Options:
    """How a problem is to be solved.

    epsilon: 0 for a pairing of least cost; otherwise the excess of each pair that is allowed, as a
        part of the costs' range.
    prices: column duals [N, m] to start from, float64.
    threads: at most so many; None for torch's number on large problems.
    duals: whether the solution's duals will be looked at.
    """

    epsilon: float = 0.0
    prices: Tensor | None = None
    threads: int | None = None
    duals: bool = False


@dataclass
class Matching:
    """Of N problems. On a GPU all is there, and gap is NaN where some number was not finite."""

    match: Tensor  # [N, n], int64: the column of each row
    cost: Tensor  # [N]
    gap: Tensor  # [N]
    rows: Tensor  # [N, n], dual variables
    columns: Tensor  # [N, m]
    counts: Tensor | None = None  # what the CUDA kernels counted

    def swapped(self, columns: int) -> Matching:
        """The solution of the swapped problem, with so many columns here; -1 for rows left over."""
        device = self.match.device
        match = torch.full((len(self.match), columns), -1, device=device)
        values = torch.arange(self.match.shape[1], device=device).expand_as(self.match)
        match.scatter_(1, self.match, values)
        return Matching(match, self.cost, self.gap, self.columns, self.rows, self.counts)


@dataclass(frozen=True)
class Shipment:
    """The cells of a transport plan, at most n + m - 1, by rows and columns.

    rows, columns, amounts: int64 [cells]. cost: the sum of amounts times costs. gap: no plan costs
    less than cost - gap. duals: u [n], v [m], u_i + v_j <= c_ij up to rounding.
    """

    rows: Tensor
    columns: Tensor
    amounts: Tensor
    cost: float
    gap: float
    duals: tuple[Tensor, Tensor]


class NotFiniteError(ValueError):
    """Some cost is infinite or NaN."""


def check_finite(problem: Problem) -> None:
    """Raises a ValueError that names the cloud with a number that is not finite."""
    for name, x in zip(problem.names, (problem.x0, problem.x1), strict=True):
        assert x is not None
        # A sum is fast, and finite unless a number is not or the sum overflows.
        if not torch.isfinite(x.sum()) and not torch.isfinite(x).all():
            raise ValueError(f"{name}: expected finite numbers")


def near_one(problem: Problem) -> tuple[Problem, int]:
    """The clouds in float64 over a power of two that leaves them near 1: costs are over 2^power.

    Squares of very large or small numbers do not fit in float64.
    """
    assert problem.x0 is not None
    assert problem.x1 is not None
    x0, x1 = problem.x0.double(), problem.x1.double()
    power = max(math.frexp(x.abs().max().item())[1] for x in (x0, x1))
    x0, x1 = (times_power(x, -power) for x in (x0, x1))
    return replace(problem, x0=x0, x1=x1), power if problem.root else 2 * power


def times_power(x: Tensor, power: int) -> Tensor:
    """x 2^power, which is finite where that is: no factor is beyond 2^1023."""
    for part in (power // 3, (power + 1) // 3, (power + 2) // 3):
        x = x * 2.0**part
    return x


def check_fits(cost: Tensor, problem: Problem) -> None:
    """Raise a ValueError for costs of points that are infinite in float64."""
    if not torch.isfinite(cost).all():
        assert problem.x0 is not None
        assert problem.x1 is not None
        largest = max(x.abs().max().item() for x in (problem.x0, problem.x1))
        names = ", ".join(problem.names)
        raise ValueError(
            f"{names}: the costs of points with numbers up to {largest:.3g} do not fit in float64; "
            "rescale the points"
        )


def centred(x0: Tensor, x1: Tensor, root: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The clouds less their means, and the mean of x0 less that of x1, [N, d].

    If each cloud is centred by itself, squared distances change by constants of rows and columns,
    which matter only where a column may be left over. Otherwise both lose the mean of x1.
    """
    centre = x1.mean(1, keepdim=True)
    if root or x0.shape[1] != x1.shape[1]:
        return x0 - centre, x1 - centre, torch.zeros_like(centre[:, 0])
    own = x0.mean(1, keepdim=True)
    return x0 - own, x1 - centre, (own - centre)[:, 0]
