"""Coefficients and times of rows as tensors with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgen.fitting.rows import Row, Rows
from fastgen.model.parametrisation import Parametrisation
from fastgen.plans import Plan
from fastgen.solvers import names
from fastgen.solvers import plan as make_plan

WHAT = ("grid", "coefficients", "both")
_STEP = 1e-5  # of the central differences, relative to the shortest interval


class Replanned:
    """A solver's rows as a function of its grid, with the Jacobian by central differences.

    A plan takes a millisecond and is exact to rounding, so that 2 m plans for m free times give
    derivatives to about 1e-9, for every solver that there is.
    """

    def __init__(self, plan: Plan, parametrisation: Parametrisation) -> None:
        self.plan, self.parametrisation = plan, parametrisation

    def possible(self, rows: Rows) -> bool:
        """Whether the solver's name, options and times give these rows again."""
        if self.plan.solver not in names():
            return False
        try:
            again = self.rows(self.plan.times)
        except (TypeError, ValueError):
            return False
        return np.allclose(_flat(again), _flat(rows), rtol=1e-12, atol=1e-14)

    def rows(self, grid: np.ndarray) -> Rows:
        """The rows on a grid."""
        plan = self.plan
        options = {"predicts": self.parametrisation.predicts, "clip": plan.clip, **plan.options}
        end = float(grid[-1])
        made = make_plan(plan.solver, plan.schedule, timesteps=grid, end=end, **options)
        return Rows.of(made, self.parametrisation)

    def flat(self, grid: np.ndarray) -> np.ndarray:
        """Times of evaluations, then all coefficients."""
        return _flat(self.rows(grid))

    def jacobian(self, grid: np.ndarray) -> np.ndarray:
        """d flat / d grid of the free times, [flat, steps - 1]."""
        step = _STEP * float(-np.diff(grid).max())
        columns = []
        for k in range(1, len(grid) - 1):
            ends = []
            for sign in (1, -1):
                moved = grid.copy()
                moved[k] += sign * step
                ends.append(self.flat(moved))
            columns.append((ends[0] - ends[1]) / (2 * step))
        return np.stack(columns, 1) if columns else np.empty((len(self.flat(grid)), 0))


class _Planned(torch.autograd.Function):
    """`Replanned.flat` of a grid's free times for autograd."""

    @staticmethod
    def forward(ctx: Any, free: Tensor, replanned: Replanned, ends: tuple[float, float]) -> Tensor:
        grid = np.array([ends[0], *free.detach().tolist(), ends[1]])
        if free.requires_grad:
            ctx.jacobian = torch.from_numpy(replanned.jacobian(grid))
        return torch.from_numpy(replanned.flat(grid))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return ctx.jacobian.T @ gradients[0], None, None


class Moving:
    """What a fit moves: the gaps of the grid, and each row's coefficients in scaled directions.

    Times are those of softmax(gaps), so that they stay in order between fixed ends. A row is
    c = base + directions w, the base that of the solver on the moved grid, and w the free numbers.

    Args:
        rows: where to begin.
        replanned: what gives the base on other grids; None keeps the base as it is.
        directions: of each row, [k + 2, k + 2], in which a unit moves the state by about 1.
        what: of `WHAT`.
    """

    def __init__(
        self,
        rows: Rows,
        base: Rows,
        replanned: Replanned | None,
        directions: Sequence[Tensor],
        what: str,
    ) -> None:
        self.rows, self.base, self.replanned, self.what = rows, base, replanned, what
        self.directions = directions
        grid = np.asarray(rows.plan.times)
        self.gaps = torch.from_numpy(np.log(-np.diff(grid)))
        self.offsets = [
            torch.from_numpy(own.coefficients - planned.coefficients)
            for own, planned in zip(rows.rows, base.rows, strict=True)
        ]
        self.moves = [
            torch.zeros(k + 2, dtype=torch.float64, device="cpu") for k in range(rows.nfe)
        ]
        self.ends = float(grid[0]), float(grid[-1])

    @property
    def parameters(self) -> dict[str, list[Tensor]]:
        """The free numbers, which `torch.optim` is given."""
        found = {"gaps": [self.gaps] if self.what != "coefficients" and len(self.gaps) > 1 else []}
        return found | {"moves": self.moves if self.what != "grid" else []}

    def grid(self) -> Tensor:
        """The times, [steps + 1]."""
        start, end = self.ends
        shares = torch.cumsum(torch.softmax(self.gaps, 0), 0)[:-1]
        inner = start + (end - start) * shares
        return torch.cat([inner.new_tensor([start]), inner, inner.new_tensor([end])])

    def values(self) -> tuple[list[Tensor] | list[float], list[Tensor]]:
        """Times of the evaluations, and each row's coefficients, in float64.

        Times are tensors where they move, and numbers otherwise.
        """
        nfe = self.rows.nfe
        times: list[Any] = list(self.rows.times[:nfe])
        coefficients = [torch.from_numpy(row.coefficients) for row in self.base.rows]
        if self.what != "coefficients":
            grid = self.grid()
            if self.replanned is None:  # one evaluation for each step
                times = list(grid[:nfe])
            else:
                flat: Tensor = _Planned.apply(  # type: ignore[no-untyped-call]
                    grid[1:-1], self.replanned, self.ends
                )
                times = list(flat[:nfe])
                sizes = [k + 2 for k in range(nfe)]
                coefficients = list(torch.split(flat[nfe + 1 :], sizes))
        own = [
            c + offset + direction @ move
            for c, offset, direction, move in zip(
                coefficients, self.offsets, self.directions, self.moves, strict=True
            )
        ]
        return times, own

    def to_rows(self) -> Rows:
        """The rows as numbers."""
        with torch.no_grad():
            times, coefficients = self.values()
            grid = self.grid().numpy()
        numbers = [float(t) for t in times]
        rows: list[Row] = []
        pairs = zip(self.rows.rows, coefficients, strict=True)
        for row, c in pairs:
            rows.append(row.with_coefficients(c.tolist()))
        if self.what == "coefficients":
            return self.rows.with_rows(rows)
        # Softmax rounds: the ends are exact, and so is what is equal to a time of the grid.
        grid[0], grid[-1] = self.ends
        return self.rows.with_rows(rows, [*numbers, self.ends[1]], grid)


def whitened(gram: Tensor, ridge: float) -> Tensor:
    """Directions of a row in which a unit moves the state by 1 (rms), or less where columns agree.

    G^{-1/2} of the columns' Gram matrix, its eigenvalues raised to ridge times the largest.
    """
    values, vectors = torch.linalg.eigh(gram.cpu())
    found: Tensor = vectors / values.clamp(min=ridge * float(values[-1])).sqrt()
    return found


def _flat(rows: Rows) -> np.ndarray:
    return np.concatenate([np.array(rows.times), *(row.coefficients for row in rows.rows)])
