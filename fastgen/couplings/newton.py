"""Entropic plans of small regularisations on a matrix of costs, by Newton's method.

With f fitted to the rows, the dual of one vector g is

    D(g) = <b, g> - eps <a, log sum_j exp((g_j - c_ij) / eps)>,
    D'(g) = b - P^T 1,   D''(g) = -(diag(P^T 1) - P^T diag(1 / a) P) / eps,
    P_ij = a_i softmax_j((g_j - c_ij) / eps),

concave, and flat along 1 (Cuturi and Peyre 2016, arXiv 1503.02533; Brauer, Clason, Lorenz and Wirth
2017, arXiv 1710.06635). Where Sinkhorn's sweeps fall by 1 - O(exp(-gap / eps)) each, Newton's steps
square the error. Regularisations above eps lead to where they do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Of Newton's steps: ascent that a step must bring, as a part of what its slope promises; halvings.
_ARMIJO, _HALVINGS = 1e-4, 30
# Added to the Hessian, as a part of the mean of its diagonal: between parts of the plan that hardly
# touch it is singular to rounding.
_DAMPING = 1e-13
# More of it where a step fails, or is shorter than this part of Newton's.
_FIRMER, _SHORT = 30.0, 0.05
_LEVEL_FACTOR, _COARSE = 0.25, 1e-2


@dataclass(frozen=True)
class DensePlan:
    """Potentials f [n], g [m] of a plan [n, m], whose rows are exact and whose columns are not.

    error: the mass by which the columns miss theirs, |P^T 1 - b|_1. iterations: Newton's steps.
    """

    f: Tensor
    g: Tensor
    plan: Tensor
    error: float
    iterations: int


def newton_plan(
    cost: Tensor,
    reg: float,
    weights0: Tensor | None = None,
    weights1: Tensor | None = None,
    *,
    tolerance: float = 1e-9,
    max_iterations: int = 1000,
) -> DensePlan:
    """The entropic plan for costs [n, m], float64, with positive marginals of one sum.

    Takes O(m^2 (n + m)) a step, so m is better the smaller number. The plan is returned whether the
    tolerance was met or not: see its error.

    Args:
        cost: [n, m].
        reg: the regularisation, in units of the cost.
        weights0, weights1: [n], [m]; None is uniform.
        tolerance: of |P^T 1 - b|_1.
        max_iterations: steps in all.
    """
    n, m = cost.shape
    a = cost.new_full((n,), 1 / n) if weights0 is None else weights0
    b = cost.new_full((m,), 1 / m) if weights1 is None else weights1
    levels = [reg]
    while levels[0] < 0.25 * float(cost.amax()):
        levels.insert(0, levels[0] / _LEVEL_FACTOR)
    g, left = cost.new_zeros(m), max_iterations
    for eps in levels:
        wanted = tolerance if eps == reg else _COARSE
        state = _Level(cost, eps, a, b, g)
        while left > 0 and not state.error <= wanted:
            state.step()
            left -= 1
        g = state.g
    return DensePlan(state.f, g, state.plan, state.error, max_iterations - left)


class _Level:
    """Newton's method at one eps."""

    def __init__(self, cost: Tensor, eps: float, a: Tensor, b: Tensor, g: Tensor) -> None:
        self.cost, self.eps, self.a, self.b = cost, eps, a, b
        self.damping = _DAMPING
        self._take(g, *self._at(g))

    def _at(self, g: Tensor) -> tuple[float, Tensor, Tensor]:
        """D, the rows' log-sums and the softmax of the rows."""
        scores = (g - self.cost) / self.eps
        sums = scores.logsumexp(1)
        value = float(self.b @ g - self.eps * (self.a @ sums))
        return value, sums, scores.sub_(sums[:, None]).exp_()

    def _take(self, g: Tensor, value: float, sums: Tensor, shares: Tensor) -> None:
        self.g, self.value = g, value
        self.f = -self.eps * sums + self.eps * self.a.log()
        self.shares = shares
        self.slope = self.b - self.a @ shares
        self.error = float(self.slope.abs().sum())

    @property
    def plan(self) -> Tensor:
        """P [n, m]."""
        return self.a[:, None] * self.shares

    def step(self) -> None:
        """One of Newton's steps uphill; a sweep of Sinkhorn's where it is none or hardly one."""
        if not self._newton():
            self.damping = min(self.damping * _FIRMER, 1.0)
            columns = (self.a @ self.shares).clamp(min=1e-300)
            g = self.g + self.eps * (self.b.log() - columns.log())
            self._take(g, *self._at(g))

    def _newton(self) -> bool:
        columns = self.a @ self.shares
        mean = float(columns.mean())
        hessian = (self.shares.mT * -self.a) @ self.shares
        hessian.diagonal().add_(columns + self.damping * mean)
        hessian += 1 / len(self.b) ** 2  # along 1, where D is flat, nothing is moved
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if int(failed):
            return False
        move = self.eps * torch.cholesky_solve(self.slope[:, None], factor)[:, 0]
        promised = float(self.slope @ move)
        length = 1.0
        for _ in range(_HALVINGS):
            g = self.g + length * move
            value, sums, shares = self._at(g)
            error = float((self.b - self.a @ shares).abs().sum())
            # Near the end the value no longer tells: it is right to its last bits.
            if value >= self.value + _ARMIJO * length * promised or error < self.error / 2:
                self._take(g, value, sums, shares)
                if length > _SHORT:
                    self.damping = max(self.damping / _FIRMER, _DAMPING)
                return length > _SHORT
            length /= 2
        return False
