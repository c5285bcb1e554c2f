"""Plans between two minibatches as matrices, and draws from them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import fastgen.kernels as kernels
from fastgen.couplings import SinkhornResult, assign, sinkhorn
from fastgen.couplings.costs import Cost
from fastgen.couplings.newton import newton_plan
from fastgen.couplings.uniform import uniform_plan
from fastgen.kernels import Noise, Stream
from fastgen.kernels.bridge.contract import Clock
from fastgen.noise.keys import seed_tensor

Array = npt.NDArray[Any]

# Pairs are drawn with uniform numbers, which the kernels make on the stream of times only. A
# matcher draws its times there too, with the same seed, sample ids and draws. So that pairs and
# times are not the same numbers, pairs have another seed.
SEED_OF_PAIRS = 0x1E3779B97F4A7C15
UNIFORM = Clock(torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu"))

# Most parts into which points are split for an assignment, where the clouds differ in size.
PARTS_UP_TO = 8192
# Sweeps of the entropic plan for a distance: before Newton's method takes over, and of plans with
# more columns than it takes before they are returned with a warning.
FIRST_SWEEPS, SWEEPS, NEWTON_UP_TO = 1000, 100_000, 2048


class Uniforms:
    """Where draws come from: numpy's global stream, as in torchcfm, or the noise contract.

    Args:
        seed: None for numpy's stream; otherwise the k-th call with the same object is a function
            of (seed, k).
    """

    def __init__(self, seed: int | None) -> None:
        cpu = torch.device("cpu")
        self.seeds = None if seed is None else seed_tensor(seed ^ SEED_OF_PAIRS, 1, cpu)
        self.draw = 0

    def __call__(self, count: int) -> Array:
        """count numbers in [0, 1)."""
        if self.seeds is None:
            return np.random.random_sample(count)
        self.draw += 1
        ids = torch.arange(count, dtype=torch.int64, device="cpu")
        noise = Noise(self.seeds, ids, torch.tensor([self.draw - 1], device="cpu"), Stream.TIME)
        found: Array = kernels.times(noise, UNIFORM).numpy()
        return found

    def without_replacement(self, weights: Array, count: int) -> Array:
        """count different indices, drawn one after the other in proportion to weights [n] > 0.

        Raises:
            ValueError: if there are fewer than count.
        """
        if count > len(weights):
            raise ValueError(f"replace=False: {count} pairs of a plan with {len(weights)} cells")
        if self.seeds is None:
            drawn: Array = np.random.choice(
                len(weights), p=weights / weights.sum(), size=count, replace=False
            )
            return drawn
        # Efraimidis and Spirakis 2006: the largest u^(1/w) are such a sample.
        keys = np.log(self(len(weights))) / weights
        return np.argsort(-keys, kind="stable")[:count]


def drawn_cells(plan: Array, u: Array) -> tuple[Array, Array]:
    """(i, j) of the cells in which u [k] fall when those of a plan are laid end to end, by rows.

    The cells of np.random.choice over the flattened plan, which adds up the whole matrix.
    """
    rows = plan.sum(1).cumsum()
    at = u * rows[-1]
    i = np.minimum(np.searchsorted(rows, at, side="right"), len(rows) - 1)
    cells = plan[i].cumsum(1)
    rest = at - np.where(i > 0, rows[i - 1], 0.0)
    j = (cells <= rest[:, None]).sum(1)
    # Rounding may leave a rest beyond a row's sum: it then falls in the row's last cell.
    last = plan.shape[1] - 1 - (plan[i, ::-1] > 0).argmax(1)
    return i, np.minimum(j, last)


def exact_pairs(
    x0: Tensor, x1: Tensor, threads: int | None, cost: Cost = "sqeuclidean"
) -> tuple[Array, Array, Array, float]:
    """Cells (i, j) of an exact plan between uniform marginals, their masses, and its cost.

    With n != m each point is split into lcm(n, m) / n equal parts (/ m of x1): an assignment of
    the parts is a vertex of the transport polytope, and some vertex is optimal. Where that makes
    many parts the plan is found as such.
    """
    n, m = len(x0), len(x1)
    parts = math.lcm(n, m)
    if n == m:
        found = assign(x0, x1, cost=cost, threads=threads)
        i, j = np.arange(n), found.permutation.cpu().numpy()
    elif parts > PARTS_UP_TO:
        plan, _ = uniform_plan(x0, x1, cost)
        masses = plan.amounts.numpy() / parts
        return plan.rows.numpy(), plan.columns.numpy(), masses, plan.cost / parts
    else:
        a, b = (x.repeat_interleave(parts // len(x), 0) for x in (x0, x1))
        found = assign(a, b, cost=cost, threads=threads)
        i = np.arange(parts) // (parts // n)
        j = found.permutation.cpu().numpy() // (parts // m)
    return i, j, np.full(parts, 1 / parts), float(found.cost) / parts


def exact_plan(x0: Tensor, x1: Tensor, threads: int | None) -> Array:
    """The same as a matrix [n, m] of sum 1."""
    i, j, masses, _ = exact_pairs(x0, x1, threads)
    plan = np.zeros((len(x0), len(x1)))
    np.add.at(plan, (i, j), masses)
    return plan


def as_points(x: Tensor) -> Tensor:
    """Samples [n, ...] as float64 [n, d], without gradients."""
    return x.detach().double().flatten(1)


def entropic(
    x0: Tensor, x1: Tensor, reg: float, penalty: float | None, scale: float
) -> SinkhornResult:
    """The entropic plan for the squared distance over `scale`, in float64, converged or not."""
    return sinkhorn(
        as_points(x0),
        as_points(x1),
        reg * scale,
        penalty=None if penalty is None else penalty * scale,
        on_failure="return",
    )


def largest_cost(x0: Tensor, x1: Tensor) -> float:
    """The largest squared distance of a pair."""
    return float(torch.cdist(as_points(x0), as_points(x1)).amax().square())


def entropic_distance(x0: Tensor, x1: Tensor, reg: float, power: int) -> float:
    """<P, c> of the entropic plan P for the distance c = |x0 - x1|^power.

    By Sinkhorn's sweeps (Cuturi 2013, arXiv 1306.0895), from larger regularisations down, with
    scalings that are taken up into the potentials before they overflow (Schmitzer 2019, arXiv
    1610.06519, algorithm 2); where a thousand of them do not do by Newton's method on the dual. A
    plan whose marginals are not met then is one with a warning that says how far off they are.
    """
    points = as_points(x0), as_points(x1)
    cost = torch.cdist(*points, compute_mode="donot_use_mm_for_euclid_dist")
    cost = cost.square_() if power == 2 else cost
    if cost.shape[1] > cost.shape[0]:
        cost = cost.mT.contiguous()
    small = cost.shape[1] <= NEWTON_UP_TO
    plan, error = _by_sweeps(cost, reg, 1e-9, FIRST_SWEEPS if small else SWEEPS)
    if small and not error < 1e-9:
        found = newton_plan(cost, reg)
        plan, error = found.plan, found.error
    if not error < 1e-8:
        warnings.warn(
            f"the plan of reg={reg} has a marginal error of {error:.1e}; give a larger reg",
            stacklevel=3,
        )
    return float((plan * cost).sum())


def _by_sweeps(cost: Tensor, reg: float, tolerance: float, most: int) -> tuple[Tensor, float]:
    """The plan and its error after at most so many sweeps."""
    n, m = cost.shape
    f, g = cost.new_zeros(n, 1), cost.new_zeros(1, m)
    levels = [reg]
    while levels[0] < 0.25 * float(cost.amax()):
        levels.insert(0, 4 * levels[0])
    left, error = most, math.inf
    for level in levels:
        kernel = -cost / level
        f, g, error = f / level, g / level, math.inf
        wanted = tolerance if level == reg else 1e-2
        while left > 0 and not error < wanted:
            g = -math.log(m) - torch.logsumexp(kernel + f, 0, keepdim=True)
            f = -math.log(n) - torch.logsumexp(kernel + g, 1, keepdim=True)
            f, g, error, made = _scaled((kernel + f + g).exp_(), f, g, wanted, left)
            left -= 1 + made
        f, g = f * level, g * level
    return ((f + g - cost) / reg).exp(), error


def _scaled(
    plan: Tensor, f: Tensor, g: Tensor, wanted: float, sweeps: int
) -> tuple[Tensor, Tensor, float, int]:
    """Sweeps by products with a plan whose rows have their sums: new f and g in units of reg.

    Also the error of the columns' sums, and how many sweeps were made.
    """
    n, m = plan.shape
    u, v = plan.new_ones(n), plan.new_ones(m)
    columns = plan.t().contiguous()
    sums, made, error = columns @ u, 0, math.inf
    error = float((sums - 1 / m).abs().sum())
    while made < min(sweeps, 1000) and not error < wanted:
        last = u, v
        for _ in range(10):
            v = 1 / (m * sums)
            u = 1 / (n * (plan @ v))
            sums = columns @ u
        made += 10
        scalings = torch.cat([u, v])
        if not (float(scalings.amin()) > 1e-100 and float(scalings.amax()) < 1e100):
            u, v = last
            break
        error = float((v * sums - 1 / m).abs().sum())
    return f + u.log()[:, None], g + v.log()[None], error, made
