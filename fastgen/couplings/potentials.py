"""Sinkhorn iterations in the log domain, on reductions that never form the plan.

The problem, for weights a, b and costs c_ij, is the minimum over plans P >= 0 of

    <P, c> + eps KL(P | a b^T) + D_0(P 1) + D_1(P^T 1),

where D is nothing but a constraint (balanced), rho KL(. | weights) (unbalanced), or the bound
P 1 <= a, P^T 1 <= b with a given total mass (partial). The plan is
P_ij = a_i b_j exp((f_i + g_j - c_ij) / eps), and each half step maximises the dual in f or in g:

    f_i = -tau eps log sum_j b_j exp((g_j - c_ij) / eps),    tau = rho / (rho + eps)  (1: balanced)

(Cuturi 2013, arXiv 1306.0895; Chizat, Peyre, Schmitzer and Vialard 2016, arXiv 1607.05816). Here
everything is in the units of `Clouds`, with F = f - rows and G = g - columns. The sum is then over
the scores (2 / eps) <x_i, y_j> + G_j / eps + log b_j.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fastgen.couplings.clouds import Clouds
from fastgen.kernels import pairwise

# The rate of convergence is estimated over so many sweeps, as soon as the error (at most 2) is
# below this: larger errors do not fall at a steady rate.
_WINDOW, _LINEAR_BELOW = 4, 0.25
# Over-relaxed errors swing while they fall. The estimate is over so many of the times in which they
# fall by 1 / e, and an error up to so many times their line is taken for the swing.
_FALLS, _SWING = 1.0, 1.5
# A plain half step finds a smaller error than the over-relaxed one before it, often by so much.
_HOPE = 4.0
# A sweep at each intermediate level of annealing brings the potentials near enough for the next.
_SWEEPS_PER_LEVEL = 2
# Masses of columns below this may be short of terms too small for float32.
_LEAST_MASS = 1e-30
# Each level of annealing over the one before.
_LEVEL_FACTOR = 0.25


@dataclass(frozen=True)
class Marginals:
    """What is asked of the plan's marginals, in units of the clouds.

    rho: penalties of rows and columns, infinite where the marginal is kept exactly; mass: the total
    mass of a partial problem, or None.
    """

    rho: tuple[float, float] = (math.inf, math.inf)
    mass: float | None = None

    @property
    def balanced(self) -> bool:
        """Whether both marginals are kept exactly."""
        return self.mass is None and self.rho == (math.inf, math.inf)


# Of reg: the value is a difference of terms of its size, and marginals are kept to 1e-7.
_LARGEST = 1e6


@dataclass(frozen=True)
class Potentials:
    """Potentials F [n], G [m] and the multiplier of the mass, float64, with what is known of them.

    sums: of the rows, for this G. error: the violation of the optimality conditions, in mass and
    relative to the mass there is.
    """

    F: Tensor
    G: Tensor
    level: Tensor
    sums: Tensor
    error: float
    iterations: int


class Start(NamedTuple):
    """Potentials to begin with; without G, the one that fits F."""

    F: Tensor
    G: Tensor | None = None


class EntropicSolver:
    """The half steps of one problem at one eps, and the errors that come with them."""

    def __init__(
        self,
        clouds: Clouds,
        eps: float,
        marginals: Marginals,
        backend: str | None = None,
        kept: pairwise.Kept | None = None,
    ) -> None:
        if eps > _LARGEST:
            raise ValueError(
                f"reg: it is {eps:.3g} times the scale of the costs, beside which they are lost to "
                "rounding; at that size pairs are independent: draw them so"
            )
        self.clouds, self.eps, self.marginals = clouds, eps, marginals
        self.backend, self.kept = backend, kept
        self._weights = clouds.log_a.exp(), clouds.log_b.exp()
        self._total = self._weights[0].sum().item()
        self.sweeps = (
            marginals.balanced
            and min(w.min().item() for w in self._weights) > 0
            and pairwise.can_sweep(clouds.x, backend)
        )

    def sweep(self, u: Tensor, v: Tensor, omega: float) -> tuple[Tensor, float, Tensor]:
        """Both half steps of a balanced problem in one pass over the pairs.

        With s_ij the scores for v, S_i = log sum_j exp(s_ij), and -S_i is the u_i that fits row i.
        Over-relaxed, u_i becomes u_i - omega (u_i + S_i), and the mass of its row

            a_i exp((1 - omega) (u_i + S_i)) softmax(s_i)_j.

        So the softmax that gives S gives the columns of both, of the fitted rows and of these.

        Args:
            u: F / eps, [n].
            v: G / eps + log b, [m].
            omega: the factor of the over-relaxation.

        Returns:
            S [n]; the part of the mass by which columns miss theirs where rows are exact; and log
            of the columns' mass over theirs for the over-relaxed u [m], which v is to lose.
        """
        c, b = self.clouds, self._weights[1]
        sums, fitted, relaxed = pairwise.sweep(
            c.x,
            c.y,
            v,
            2 / self.eps,
            self._weights[0],
            u,
            omega,
            self.kept,
            backend=self.backend,
        )
        error = (fitted - b).abs_().sum().item() / self._total
        least, most = relaxed.aminmax()
        if least.item() > _LEAST_MASS and most.item() < math.inf:
            return sums, error, (relaxed / b).log_()
        u = torch.sub(u, u + sums, alpha=omega)
        return sums, error, self.log_sum_columns(self.eps * u) + v - c.log_b

    def log_sum_rows(self, G: Tensor) -> Tensor:
        """log sum_j exp(scores) for each row, [n]."""
        c = self.clouds
        bias = G / self.eps + c.log_b
        return pairwise.log_sum(c.x, c.y, bias, 2 / self.eps, backend=self.backend)

    def log_sum_columns(self, F: Tensor) -> Tensor:
        """The same for each column, [m]."""
        c = self.clouds
        bias = F / self.eps + c.log_a
        return pairwise.log_sum(c.y, c.x, bias, 2 / self.eps, backend=self.backend)

    def fit(self, sums: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """The potential that maximises the dual given the other's `sums`, and the mass multiplier.

        The multiplier is 0 but for partial problems, where both are found together. There
        f = min(0, -level - eps S), and the level is the one at which the mass
        sum_i a_i min(1, exp(level / eps + S_i)) is what was asked for.
        """
        offset = self.clouds.rows if side == 0 else self.clouds.columns
        best = offset - self.eps * sums
        zero = best.new_zeros(())
        if self.marginals.mass is not None:
            weights = self.clouds.log_a if side == 0 else self.clouds.log_b
            level = _water_level(best, weights, self.eps, self.marginals.mass)
            return (best - level).clamp(max=0) - offset, level
        rho = self.marginals.rho[side]
        tau = 1.0 if rho == math.inf else rho / (rho + self.eps)
        return tau * best - offset, zero

    def error(self, F: Tensor, level: Tensor, sums: Tensor, side: int = 0) -> Tensor:
        """By how much mass one marginal misses what optimality asks of it, over the total mass.

        Asked is a_i (balanced), a_i exp(-f_i / rho) (unbalanced), or at most a_i, and exactly that
        where f_i < 0 (partial).
        """
        c, rho = self.clouds, self.marginals.rho[side]
        offset, weights = (c.rows, c.log_a) if side == 0 else (c.columns, c.log_b)
        f = F + offset
        marginal = (weights + (F + level) / self.eps + sums).exp()
        asked = weights.exp()
        if self.marginals.mass is not None:
            excess = marginal - asked
            missed = torch.where(f < 0, excess.abs(), excess.clamp(min=0)).sum()
            return (missed + (marginal.sum() - self.marginals.mass).abs()) / self.marginals.mass
        if rho != math.inf:
            asked = asked * (-f / rho).exp() if rho > 0 else marginal
        return (marginal - asked).abs().sum() / self._total

    def translate(self, F: Tensor, G: Tensor) -> Tensor:
        """F moved by the constant that, taken from G, maximises the dual; P stays what it is.

            lambda = (1 / rho_0 + 1 / rho_1)^-1 log(<a, e^{-f / rho_0}> / <b, e^{-g / rho_1}>)

        Without it large penalties converge at the rate eps / rho (Sejourne, Vialard and Peyre 2022,
        arXiv 2201.00730).
        """
        r0, r1 = self.marginals.rho
        if self.marginals.mass is not None or not (0 < r0 < math.inf and 0 < r1 < math.inf):
            return F
        c = self.clouds
        a = torch.logsumexp(c.log_a - (F + c.rows) / r0, 0)
        b = torch.logsumexp(c.log_b - (G + c.columns) / r1, 0)
        return F + (a - b) / (1 / r0 + 1 / r1)


def _water_level(best: Tensor, log_weights: Tensor, eps: float, mass: float) -> Tensor:
    """The level l with sum_i a_i min(1, exp((l - best_i) / eps)) = mass.

    With the `best` in order the first k saturate: exp(l / eps) = (mass - a_1 - .. - a_k) / (sum of
    a_i exp(-best_i / eps) over the others), of which one k is consistent.
    """
    best, order = best.sort()
    weights = log_weights[order]
    tail = (weights - best / eps).flip(0).logcumsumexp(0).flip(0)
    before = weights.exp().cumsum(0) - weights.exp()
    room = (mass - before).clamp(min=0)
    levels = eps * (room.log() - tail)
    # Row k is below saturation for the first k with l_k < best_k; the last one if all saturate.
    unsaturated = (levels <= best).nonzero()
    return levels[unsaturated[0, 0]] if len(unsaturated) else best[-1]


class Relaxation:
    """Over-relaxation F <- F + omega (F* - F) whose factor follows the observed rate.

    A sweep of the plain iteration reduces the error by theta = mu^2. Over-relaxed by omega, it does
    by the root r of (r + omega - 1)^2 = r omega^2 mu^2. The least is r = omega - 1, for
    omega = 2 / (1 + sqrt(1 - mu^2)) (Young 1954; for Sinkhorn: Thibault, Chizat, Dossal and
    Papadakis 2017, arXiv 1711.01851; Lehmann, von Renesse, Sambale and Uschmajew 2020,
    arXiv 2012.12562). The rate r is observed over a few sweeps, and theta follows from it. When the
    error grows, plain sweeps take over.
    """

    def __init__(self, enabled: bool, sweeps: int = 1) -> None:
        """With an error after every so many sweeps."""
        self.enabled, self.omega = enabled, 1.0
        self._sweeps = sweeps
        self._errors: list[float] = []
        self._best, self._trust = math.inf, 1.0

    def observe(self, error: float) -> None:
        """Learn from the error after a sweep, and choose the factor of the next."""
        if not self.enabled:
            return
        if not error < 4 * self._best:
            # Less bold for a while.
            self.omega, self._errors, self._best = 1.0, [], math.inf
            self._trust *= 0.5
        self._best = min(self._best, error)
        if not error < _LINEAR_BELOW:
            return
        self._errors.append(error)
        # Over-relaxed errors swing while they fall by omega - 1 a sweep. Only over a long time is a
        # slower fall told from the swing.
        window = max(1, math.ceil(max(_WINDOW, _FALLS / (2 - self.omega)) / self._sweeps))
        if len(self._errors) <= window or error <= 0:
            return
        fallen, sweeps = error / self._errors[0], window * self._sweeps
        rate = fallen ** (1 / sweeps)
        self._errors = [error]
        self._trust = min(1.0, 1.1 * self._trust)
        if _SWING * (self.omega - 1) ** sweeps < fallen < 1:
            theta = (rate + self.omega - 1) ** 2 / (rate * self.omega**2)
            best = 2 / (1 + math.sqrt(max(1 - theta, 1e-6)))
            self.omega = max(self.omega, 1 + self._trust * (best - 1))


def solve(
    solver: EntropicSolver,
    start: Start,
    *,
    tolerance: float,
    max_iterations: int,
    relax: bool,
    check_every: int,
) -> Potentials:
    """Sweeps from `start` until the error of the rows is below the tolerance, with exact columns.

    The error takes no further pass: it follows from the sums by which F is fitted. The F returned
    is fitted, so that rows are exact and the columns' error is at most the one reported (half steps
    of the balanced problem never raise it).
    """
    if solver.sweeps:
        return _solve_in_sweeps(solver, start, tolerance, max_iterations, relax)
    relaxation = Relaxation(relax, check_every)
    F, G = start.F, start.G
    error, goal, confirm = math.inf, _HOPE * tolerance, False
    for iteration in range(1, max_iterations + 1):
        # Over-relaxed columns are not exact: the rows' error counts after a plain half step only.
        omega = 1.0 if confirm or iteration == max_iterations else relaxation.omega
        if G is not None:
            F = solver.translate(F, G)
        fitted, level = solver.fit(solver.log_sum_columns(F), 1)
        G = fitted if omega == 1 or G is None else G + omega * (fitted - G)
        sums = solver.log_sum_rows(G)
        due = iteration % check_every == 0 or iteration == max_iterations
        if due:
            error = solver.error(F, level, sums).item()
        fitted, level = solver.fit(sums, 0)
        if due:
            if math.isnan(error) or (omega == 1 and error <= tolerance):
                break
            if confirm:  # a plain half step has not reached the tolerance: try later next time
                goal = goal / _HOPE
            else:
                relaxation.observe(error)
            confirm = relaxation.omega != 1 and error <= goal
        F = fitted if omega == 1 else F + omega * (fitted - F)
    assert G is not None
    return Potentials(fitted, G, level, sums, error, iteration)


def _solve_in_sweeps(
    solver: EntropicSolver, start: Start, tolerance: float, max_iterations: int, relax: bool
) -> Potentials:
    """`solve` in one pass a sweep, whose error is that of the columns with exact rows."""
    relaxation, eps, log_b = Relaxation(relax), solver.eps, solver.clouds.log_b
    u = start.F / eps
    v = log_b + (-solver.log_sum_columns(start.F) if start.G is None else start.G / eps)
    for iteration in range(1, max_iterations + 1):
        omega = relaxation.omega
        sums, error, excess = solver.sweep(u, v, omega)
        if math.isnan(error) or error <= tolerance or iteration == max_iterations:
            break
        relaxation.observe(error)
        u = torch.sub(u, u + sums, alpha=omega)
        v = torch.sub(v, excess, alpha=omega)
    return Potentials(-eps * sums, eps * (v - log_b), sums.new_zeros(()), sums, error, iteration)


def solve_symmetric(
    solver: EntropicSolver,
    start: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    check_every: int,
) -> Potentials:
    """A cloud with itself: f = g is the fixed point of F <- (F + fit(F)) / 2, one pass a sweep.

    (Feydy et al. 2018, arXiv 1810.08278.)
    """
    F, error = start, math.inf
    for iteration in range(1, max_iterations + 1):
        sums = solver.log_sum_rows(F)
        fitted, level = solver.fit(sums, 0)
        if iteration % check_every == 0 or iteration == max_iterations:
            error = solver.error(F, level, sums).item()
            if math.isnan(error) or error <= tolerance:
                return Potentials(F, F, level, sums, error, iteration)
        F = (F + fitted) / 2
    return Potentials(F, F, level, sums, error, max_iterations)


def levels(eps: float, first: float) -> list[float]:
    """Regularisations above eps, from `first` down by a factor, for annealing."""
    found = []
    while first > eps / _LEVEL_FACTOR**0.5:
        found.append(first)
        first *= _LEVEL_FACTOR
    return found


def annealed(
    solver: EntropicSolver,
    start: Start,
    steps: list[float],
    run: Callable[[EntropicSolver, Start], Potentials],
) -> Potentials:
    """`run` from the potentials of a few sweeps at each larger regularisation."""
    done = 0
    for eps in steps:
        coarse = EntropicSolver(solver.clouds, eps, solver.marginals, solver.backend, solver.kept)
        state = solve(
            coarse,
            start,
            tolerance=0,
            max_iterations=_SWEEPS_PER_LEVEL,
            relax=False,
            check_every=_SWEEPS_PER_LEVEL + 1,
        )
        start, done = Start(state.F, state.G), done + state.iterations
    state = run(solver, start)
    return replace(state, iterations=done + state.iterations)
