"""What a Sinkhorn solve returns or raises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastgen.common.display import displayed
from fastgen.couplings.clouds import Clouds
from fastgen.kernels import pairwise


class SinkhornError(RuntimeError):
    """The iterations ended before the marginal error was below the tolerance.

    result: what there is, a `SinkhornResult` with converged=False.
    """

    def __init__(self, message: str, result: SinkhornResult) -> None:
        super().__init__(message)
        self.result = result


@displayed
@dataclass(frozen=True)
class SinkhornResult:
    """Potentials of an entropic plan and how well they solve the problem.

    P_ij = a_i b_j exp((f_i + g_j + mass_multiplier - c_ij) / reg), c_ij = |x0_i - x1_j|^2.

    f, g: float64 [n], [m], in units of the cost; constants to autograd, which knows the derivatives
    of value alone. mass_multiplier: 0 but for partial problems.
    weights0, weights1: float64 [n], [m]. reg: the absolute regularisation. value: the minimum of
    <P, c> + reg KL(P | a b^T) + penalties, float64 [], differentiable in points and weights.
    marginal_error: violation of the marginal conditions in L1, relative to the mass of weights0.
    mass: of the plan. converged: whether marginal_error is below the tolerance asked for.
    """

    f: Tensor
    g: Tensor
    mass_multiplier: float
    weights0: Tensor
    weights1: Tensor
    reg: float
    value: Tensor
    marginal_error: float
    mass: float
    iterations: int
    converged: bool
    row_marginal: Tensor
    clouds: Clouds
    backend: str | None = None

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"n": len(self.f), "m": len(self.g), "reg": self.reg}
        names = ("value", "marginal_error", "mass", "iterations", "converged")
        return facts | {name: getattr(self, name) for name in names}

    def scores(self) -> tuple[Tensor, float]:
        """Bias [m] and scale of the scores: row i of P is its mass times their softmax."""
        c = self.clouds
        eps = self.reg / c.unit
        return (self.g / c.unit - c.columns) / eps + c.log_b, 2 / eps

    def column_scores(self) -> tuple[Tensor, float]:
        """The same for the columns of P, [n]."""
        c = self.clouds
        eps = self.reg / c.unit
        return (self.f / c.unit - c.rows) / eps + c.log_a, 2 / eps

    def marginals(self) -> tuple[Tensor, Tensor]:
        """P 1 and P^T 1, float64 [n] and [m]; two passes over the pairs."""
        c = self.clouds
        eps = self.reg / c.unit
        level = self.mass_multiplier / self.reg
        found = []
        for x, y, (bias, scale), offset, potential, weight in (
            (c.x, c.y, self.scores(), c.rows, self.f, c.log_a),
            (c.y, c.x, self.column_scores(), c.columns, self.g, c.log_b),
        ):
            sums = pairwise.log_sum(x, y, bias, scale, backend=self.backend)
            found.append((weight + (potential / c.unit - offset) / eps + level + sums).exp())
        return found[0], found[1]

    def transport_cost(self) -> float:
        """<P, c>, without the entropy; one pass. For its gradient use `value`."""
        c = self.clouds
        bias, scale = self.scores()
        sums, means = pairwise.mean(c.x, c.y, bias, scale, c.y, backend=self.backend)
        eps = self.reg / c.unit
        level = self.mass_multiplier / self.reg
        rows = (c.log_a + (self.f / c.unit - c.rows) / eps + level + sums).exp()
        columns = self.marginals()[1]
        inner = (rows[:, None] * c.x.double() * means.double()).sum()
        return c.unit * (rows @ c.rows + columns @ c.columns - 2 * inner).item()

    def plan(self) -> Tensor:
        """The dense plan, float64 [n, m], for small problems and tests."""
        c = self.clouds
        bias, scale = self.scores()
        scores = scale * (c.x.double() @ c.y.double().T) + bias
        f = (self.f + self.mass_multiplier) / c.unit - c.rows
        return (c.log_a[:, None] + (f / (self.reg / c.unit))[:, None] + scores).exp()
