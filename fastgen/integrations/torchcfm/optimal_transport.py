"""`OTPlanSampler` and `wasserstein`: optimal transport between two minibatches."""

from __future__ import annotations

import math
import os
import warnings

import numpy as np
import torch
from torch import Tensor

from fastgen.common.checks import check_finite, check_integer, check_positive
from fastgen.common.display import displayed
from fastgen.common.errors import nearest
from fastgen.couplings import assign
from fastgen.couplings import wasserstein as exact_wasserstein
from fastgen.integrations.common.noise import check_noise, fresh_seed
from fastgen.integrations.torchcfm.plans import (
    Array,
    Uniforms,
    drawn_cells,
    entropic,
    entropic_distance,
    exact_pairs,
    exact_plan,
    largest_cost,
)

METHODS = ("exact", "sinkhorn", "unbalanced", "partial")
ONCE = "once"
Replace = bool | str


@displayed
class OTPlanSampler:
    """Pairs drawn from the optimal transport plan of two minibatches, for the squared distance.

    With replace=True, torchcfm's way, pairs are drawn independently from the plan. Some samples
    come twice, and about 37 % of them not at all. replace=False draws different cells of the plan.
    replace="once" has every sample in exactly one pair, by the most probable pairing under the
    plan, the largest prod_i P[i, pi(i)]. For every method that is the exact assignment: log P is
    -c / reg plus a number for each row and one for each column.

    Args:
        method: "exact"; "sinkhorn", entropic; "unbalanced", entropic with marginals that cost
            reg_m KL; "partial", entropic with the whole mass, as in torchcfm: the same plan as
            "sinkhorn".
        reg: entropic regularisation, in units of the cost.
        reg_m: of the marginals of "unbalanced".
        normalize_cost: divide the costs by the largest.
        num_threads: threads of "exact", or "max".
        warn: whether to warn of a plan that did not converge.
        noise: "torch": draws from numpy's global stream, so that numpy seeds give torchcfm's
            pairs; or "contract": the k-th draw is a function of (seed, k).
        seed: of noise="contract"; None takes one from torch's generator.

    Raises:
        ValueError: naming the argument.
    """

    def __init__(
        self,
        method: str,
        reg: float = 0.05,
        reg_m: float = 1.0,
        normalize_cost: bool = False,
        num_threads: int | str = 1,
        warn: bool = True,
        *,
        noise: str = "torch",
        seed: int | None = None,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"Unknown method: {method}; {nearest(str(method), METHODS)}")
        check_positive("reg", reg)
        check_positive("reg_m", reg_m)
        if num_threads != "max" and (isinstance(num_threads, str) or num_threads < 1):
            raise ValueError(f"num_threads={num_threads!r}: expected at least 1, or 'max'")
        self.method, self.reg, self.reg_m = method, reg, reg_m
        self.normalize_cost, self.warn = normalize_cost, warn
        self.threads = os.cpu_count() if num_threads == "max" else int(num_threads)
        self.uniforms = Uniforms(contract_seed(noise, seed))

    def get_map(self, x0: Tensor, x1: Tensor) -> Array:
        """The plan, float64 [n, m] of sum 1 (less or more for "unbalanced").

        Args:
            x0: [n, ...]. x1: [m, ...], of the same trailing shape.

        Raises:
            ValueError: for NaN or infinite numbers, and sizes that do not fit.
        """
        if self.method == "exact":
            return exact_plan(x0, x1, self.threads)
        _check_finite(x0, x1)
        penalty = self.reg_m if self.method == "unbalanced" else None
        scale = largest_cost(x0, x1) if self.normalize_cost else 1.0
        result = entropic(x0, x1, self.reg, penalty, scale or 1.0)
        if self.warn and not result.converged:
            warnings.warn(
                f"the plan of reg={self.reg} has a marginal error of {result.marginal_error:.1e} "
                f"after {result.iterations} iterations; give a larger reg",
                stacklevel=2,
            )
        plan: Array = result.plan().cpu().numpy()
        if abs(plan.sum()) < 1e-8:
            if self.warn:
                warnings.warn(
                    "Numerical errors in OT plan, reverting to uniform plan.", stacklevel=2
                )
            plan = np.full_like(plan, 1 / plan.size)
        return plan

    def sample_map(
        self, pi: Array, batch_size: int, replace: Replace = True
    ) -> tuple[Array, Array]:
        """Indices (i, j), int64 [batch_size], of pairs drawn from a plan [n, m].

        Raises:
            ValueError: with replace=False for more pairs than the plan has cells, with
                replace="once" unless n = m = batch_size.
        """
        pi = np.asarray(pi)
        n, m = pi.shape
        if _once(replace, n, m, batch_size):
            least = np.finfo(np.float64).tiny
            found = assign(cost=torch.from_numpy(-np.log(np.maximum(pi, least))))
            return np.arange(batch_size), found.permutation.numpy()
        if replace:
            return drawn_cells(pi, self.uniforms(batch_size))
        flat = pi.flatten()
        cells = np.flatnonzero(flat)
        chosen = cells[self.uniforms.without_replacement(flat[cells], batch_size)]
        i, j = np.divmod(chosen, m)
        return i, j

    def sample_plan(self, x0: Tensor, x1: Tensor, replace: Replace = True) -> tuple[Tensor, Tensor]:
        """(x0[i], x1[j]), each [n, ...], with pairs drawn from the plan."""
        i, j = self._pairs(x0, x1, replace)
        return x0[i], x1[j]

    def sample_plan_with_scipy(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        """(x0[i], x1[j]) of the exact assignment, every sample once; i ascends."""
        i, j = (k.to(x0.device) for k in assign(x0, x1, threads=self.threads).indices())
        return x0[i], x1[j]

    def sample_plan_with_labels(
        self,
        x0: Tensor,
        x1: Tensor,
        y0: Tensor | None = None,
        y1: Tensor | None = None,
        replace: Replace = True,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """(x0[i], x1[j], y0[i], y1[j]), with None for labels that are not given.

        Labels follow their samples; the plan does not look at them.
        """
        i, j = self._pairs(x0, x1, replace)
        labels = (None if y is None else y[k] for y, k in ((y0, i), (y1, j)))
        first, second = labels
        return x0[i], x1[j], first, second

    def sample_trajectory(self, X: Tensor) -> Array:
        """Paths through populations [n, times, ...]: each step drawn from its plan's row.

        Returns:
            A numpy array of the same shape.
        """
        index = np.arange(len(X))
        steps = [index]
        for t in range(X.shape[1] - 1):
            rows = self.get_map(X[:, t], X[:, t + 1])[steps[-1]]
            sums = rows.cumsum(1)
            u = self.uniforms(len(rows))
            j = (sums / sums[:, -1:] <= u[:, None]).sum(1)
            steps.append(j)
        taken = [X[:, t][torch.from_numpy(k)] for t, k in enumerate(steps)]
        return torch.stack(taken, 1).detach().cpu().numpy()

    def _pairs(self, x0: Tensor, x1: Tensor, replace: Replace) -> tuple[Tensor, Tensor]:
        """The same pairs as of `get_map` and `sample_map`; of exact plans only the cells."""
        n = len(x0)
        if _once(replace, n, len(x1), n):
            i, j = np.arange(n), assign(x0, x1, threads=self.threads).permutation.cpu().numpy()
        elif self.method == "exact" and n == len(x1):
            _, j, *_ = exact_pairs(x0, x1, self.threads)
            weights = np.full(n, 1 / n)
            if replace:
                i, _ = drawn_cells(weights[:, None], self.uniforms(n))
            else:
                i = self.uniforms.without_replacement(weights, n)
            j = j[i]
        else:
            i, j = self.sample_map(self.get_map(x0, x1), n, replace)
        first, second = (torch.from_numpy(k).to(x0.device) for k in (i, j))
        return first, second


def wasserstein(
    x0: Tensor,
    x1: Tensor,
    method: str | None = None,
    reg: float = 0.05,
    power: int = 2,
) -> float:
    r"""The distance of two clouds with equal weights.

    .. math:: W_p = \Bigl(\sum_{ij} P_{ij} |x_0[i] - x_1[j]|^p\Bigr)^{1/p}

    Args:
        x0: [n, ...]. x1: [m, ...].
        method: None or "exact"; or "sinkhorn": P is the entropic plan.
        reg: of "sinkhorn", in units of |x0 - x1|^power.
        power: p, 1 or 2.

    Raises:
        ValueError: naming the argument.
    """
    if power not in (1, 2):
        raise ValueError(f"power={power!r}: expected 1 or 2")
    if method in (None, "exact"):
        if x0.shape == x1.shape:
            return exact_wasserstein(x0, x1, power)
        if power == 1:
            return exact_pairs(x0, x1, None, "euclidean")[3]
        return math.sqrt(exact_pairs(x0, x1, None)[3])
    if method != "sinkhorn":
        raise ValueError(f"Unknown method: {method}; {nearest(method, ('exact', 'sinkhorn'))}")
    check_positive("reg", reg)
    _check_finite(x0, x1)
    cost = entropic_distance(x0, x1, reg, power)
    return cost if power == 1 else math.sqrt(cost)


def contract_seed(noise: str, seed: int | None) -> int | None:
    """The seed of noise="contract", None for "torch"; a ValueError for other combinations."""
    check_noise(noise, seed)
    if noise == "torch":
        return None
    return fresh_seed() if seed is None else check_integer("seed", seed)


def _once(replace: Replace, n: int, m: int, count: int) -> bool:
    if not isinstance(replace, str):
        return False
    if replace != ONCE:
        raise ValueError(f"replace={replace!r}: expected True, False or 'once'")
    if not n == m == count:
        raise ValueError(f"replace='once': for clouds of one size, got {n} and {m}, {count} pairs")
    return True


def _check_finite(*clouds: Tensor) -> None:
    for name, x in zip(("x0", "x1"), clouds, strict=True):
        check_finite(name, x)
