"""Exact optimal assignment of two clouds of points."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, ParamSpec, overload

import torch
from torch import Tensor

from fastgen.common.checks import check_at_least, check_choice, check_finite
from fastgen.common.compiling import uncompiled
from fastgen.common.display import displayed
from fastgen.common.transforms import BACKWARD, transforming, untransformed
from fastgen.common.typed import typed
from fastgen.couplings import costs
from fastgen.kernels import dispatch
from fastgen.kernels.assignment.contract import Matching, Options, Problem
from fastgen.kernels.assignment.operator import solve

P = ParamSpec("P")
Backend = Literal["auto", "cpp", "reference", "cuda"]
BACKENDS = ("auto", "cpp", "reference", "cuda")
# Makes backend="auto" use the CUDA kernels for tensors on an NVIDIA GPU.
CUDA_SWITCH = "FASTGEN_CUDA_ASSIGN"


@displayed
@dataclass(frozen=True)
class Assignment:
    """A pairing, its cost, and a proof of how good it is; unpacks to the three.

    permutation: x0[i] pairs with x1[permutation[i]]; [n] or [N, n], int64, -1 where x0[i] is left
        over because x1 has fewer points.
    cost: the sum over pairs; batched, a float64 tensor [N]. With backend="cuda" a float64 tensor
        on the device, [] or [N], as is the gap: nothing waits until they are read.
    gap: no pairing costs less than cost - gap: by dual variables, with what rounding may have done
        to them and to the cost. Infinite if the cost is.
    duals: (u [n], v [m]), u_i + v_j <= c_ij up to rounding, sum(u) + sum(v) = cost - gap up to
        rounding; None unless asked for.
    """

    permutation: Tensor
    cost: float | Tensor
    gap: float | Tensor
    duals: tuple[Tensor, Tensor] | None = None

    def _facts(self) -> dict[str, Any]:
        facts = {"permutation": self.permutation, "cost": self.cost, "gap": self.gap}
        return facts | ({"duals": self.duals} if self.duals is not None else {})

    def __iter__(self) -> Iterator[Any]:
        return iter((self.permutation, self.cost, self.gap))

    def __len__(self) -> int:
        return 3

    @overload
    def __getitem__(self, index: Literal[0]) -> Tensor: ...
    @overload
    def __getitem__(self, index: Literal[1, 2]) -> float | Tensor: ...
    def __getitem__(self, index: int) -> Any:
        return (self.permutation, self.cost, self.gap)[index]

    def indices(self) -> tuple[Tensor, Tensor]:
        """(i, j), both [min(n, m)]: x0[i[k]] pairs with x1[j[k]]; i ascends. Not for batches."""
        if self.permutation.ndim != 1:
            raise ValueError("indices: of one problem, not a batch; use permutation")
        i = (self.permutation >= 0).nonzero()[:, 0]
        return i, self.permutation[i]


def _small_first(function: Callable[P, Assignment]) -> Callable[P, Assignment]:
    """A decorator: one small matrix of costs without options goes straight to its kernel.

    There the checks of the arguments would take ten times as long as the problem.
    """

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> Assignment:
        if not args and len(kwargs) == 1 and type(cost := kwargs.get("cost")) is Tensor:
            solver = _given_solver()
            if solver is not None and not transforming():
                found = solver(cost, Assignment)
                if found is not None:
                    return found
        return function(*args, **kwargs)

    return called


@cache
def _given_solver() -> Callable[[Tensor, type[Assignment]], Assignment | None] | None:
    if dispatch.missing("cpp") is not None:
        return None
    return dispatch.load("assignment_given", "cpp")


@uncompiled
@_small_first
@untransformed(BACKWARD)
@typed
def assign(
    x0: Tensor | None = None,
    x1: Tensor | None = None,
    *,
    cost: costs.Cost = "sqeuclidean",
    mode: Literal["exact", "eps"] = "exact",
    epsilon: float = 1e-3,
    warm_start: Assignment | Tensor | None = None,
    return_duals: bool = False,
    batched: bool = False,
    threads: int | None = None,
    backend: Backend = "auto",
) -> Assignment:
    r"""Pairs each x0[i] with another x1[j] so that the sum of costs is least.

    .. math:: \min_\pi \sum_i c(x_0[i], x_1[\pi(i)])

    An auction with falling epsilon (Bertsekas 1979, 1988) whose last rows are assigned along
    shortest augmenting paths (Jonker and Volgenant 1987), on costs in 2^27 levels. Prices are then
    refined in finer levels until the duality gap, in float64, is below 1e-6 (float32) or 1e-12
    (float64) of the cost; of pairs that cost far more than the others only as much counts. Of
    points of which some are far from the others (heavy tails) those come first, with as many of the
    others, as a problem of their own: its dual variables :math:`u` give the prices
    :math:`v_j = \min_i (c_{ij} - u_i)` that all points start from, in levels of what the others'
    pairs cost. Where levels do not get there (large costs that block pairs) the network simplex
    method with exact potentials takes over from what was found: the pairing is optimal whatever the
    range. Many equal points, or columns or rows of costs that are equal up to rounding, are one
    with copies (auction of similar objects, Bertsekas and Castanon 1989).

    A matrix of few costs, or of costs that a first bid of each row nearly settles (ties, forbidden
    pairs, clusters), is solved in float64 as it is, by bids without epsilon and shortest augmenting
    paths alone (Jonker and Volgenant 1987). What ties leave over is paired first along pairs that
    are as good (Hopcroft and Karp 1973), then by paths from all rows that are left at once. Up to
    1,024 x 1,024 a call without options other than `cost` takes the least of set-up: 1.7 us of a
    4 x 4 matrix.

    Args:
        x0: [n, ...]; points are flattened. Half precision is computed in float32.
        x1: [m, ...]. With n != m, as many pairs as the smaller cloud has points.
        cost: "sqeuclidean" |a - b|^2, "euclidean" |a - b|, a matrix [n, m] (x0 and x1 may then
            be left out), or a function of x0 and x1 that gives one. In more than 16 dimensions
            the first two are computed by matrix multiplication where that keeps enough digits; the
            gap allows each of its numbers one rounding of the largest. The product then takes most
            of the time (5/6 of it for 512 points of 3072 numbers), and 4 n m bytes. Otherwise, of
            more than 2^28 pairs in up to 64 dimensions, and where the product would take more than
            half of the machine's memory, costs are computed when they are looked at: 65,536 points
            in 16 dimensions take 1.1 GiB. In a matrix inf forbids a pair.
        mode: "exact", or "eps" for a pairing whose cost exceeds the least, for each pair, by at
            most `epsilon` times the range of the costs, and usually by far less; see `gap`. The
            range for points is the squared diagonal, or diagonal, of the box around them.
        epsilon: for mode="eps", in (0, 1).
        warm_start: the Assignment (with duals) of a similar problem, or its column duals [m]:
            starts from its prices. Needs n = m. The cost found is the same.
        return_duals: whether to return dual variables.
        batched: x0 is [N, n, ...], x1 [N, m, ...], a matrix [N, n, m]: N problems at once, on
            several threads.
        threads: at most so many; default `torch.get_num_threads()` for large problems. The result
            does not depend on it. Bids follow one another and only rows are searched together:
            two threads take .75 to .98 of the time of one. Problems of a batch share nothing.
        backend: "cpp", "reference" (numpy, slow), both for CPU tensors, "cuda" for tensors on an
            NVIDIA GPU, or "auto": C++ where it is built. Then tensors on other devices are copied
            to the CPU, and the result back; with FASTGEN_CUDA_ASSIGN=1 in the environment "auto"
            means "cuda" for tensors on an NVIDIA GPU.

            With "cuda" nothing waits for the result: if some number is not finite, or the costs'
            range beyond 1e280, cost and gap are NaN and the permutation is out of range, so that it
            cannot be used unseen. No pair can be forbidden there, no network simplex method takes
            over (the gap then says so), `threads` plays no part, and more than 8 dimensions are
            multiplied in float64. The first call compiles the kernels, which takes seconds.

    Returns:
        An `Assignment`; `permutation, cost, gap = assign(x0, x1)`.

    Raises:
        TypeError, ValueError: naming the argument, for shapes that do not fit, empty clouds, NaN
            or infinite numbers (but inf in a matrix), a matrix that forbids every pairing
            ("infeasible"), points whose costs do not fit in float64, and options that do not go
            together.
        KeyboardInterrupt: within a fraction of a second of Ctrl-C.

    Example:
        >>> x0, x1 = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[2.1], [0.1], [1.1]])
        >>> permutation, cost, gap = fastgen.couplings.assign(x0, x1)
        >>> permutation.tolist(), round(cost, 6)
        ([1, 2, 0], 0.03)
    """
    check_choice("mode", mode, ("exact", "eps"))
    if mode == "eps" and not 0 < epsilon < 1:
        raise ValueError(f"epsilon={epsilon}: expected a number in (0, 1), of the costs' range")
    if mode == "exact" and epsilon != 1e-3:
        raise ValueError(f"epsilon={epsilon} is of mode='eps'; got mode='exact'")
    if threads is not None:
        check_at_least("threads", threads, 1)
    check_choice("backend", backend, BACKENDS)
    on_device = backend == "cuda" or (backend == "auto" and _cuda_chosen(x0, cost))
    problem = costs.problem(x0, x1, cost, batched, on_device)
    if backend in ("cpp", "reference") and problem.device.type != "cpu":
        raise ValueError(f"backend={backend!r} is for the CPU, got {problem.device}; use 'auto'")
    if backend == "cpp" and dispatch.missing("cpp") is not None:
        raise ValueError("backend='cpp': the C++ kernels are not built; reinstall with a compiler")
    prices = _prices(warm_start, problem, on_device)
    eps = epsilon if mode == "eps" else 0.0
    options = Options(eps, prices, threads, return_duals)
    solution = solve(problem, options, "cuda" if on_device else backend)
    return _assignment(solution, problem, batched, return_duals, on_device)


def _cuda_chosen(x0: Tensor | None, cost: costs.Cost) -> bool:
    value = os.environ.get(CUDA_SWITCH, "0")
    if value not in ("0", "1"):
        raise ValueError(f"{CUDA_SWITCH}={value!r} in the environment: expected 0 or 1")
    given = x0 if isinstance(cost, str) or callable(cost) else cost
    on_gpu = isinstance(given, Tensor) and given.device.type == "cuda"
    return value == "1" and on_gpu and torch.version.hip is None


def _assignment(
    solution: Matching,
    problem: Problem,
    batched: bool,
    return_duals: bool,
    on_device: bool,
) -> Assignment:
    device = problem.device
    duals = (solution.rows.to(device), solution.columns.to(device)) if return_duals else None
    match = solution.match.to(device)
    if batched:
        return Assignment(match, solution.cost.to(device), solution.gap.to(device), duals)
    duals = duals and (duals[0][0], duals[1][0])
    if on_device:
        return Assignment(match[0], solution.cost[0], solution.gap[0], duals)
    return Assignment(match[0], solution.cost.item(), solution.gap.item(), duals)


def _prices(
    warm_start: Assignment | Tensor | None, problem: Problem, on_device: bool
) -> Tensor | None:
    if warm_start is None:
        return None
    count, n, m = problem.sizes
    if n != m:
        raise ValueError(f"warm_start: for as many points in x0 as in x1, got {n} and {m}")
    if isinstance(warm_start, Assignment):
        if warm_start.duals is None:
            raise ValueError("warm_start: the Assignment has no duals; make it with return_duals")
        warm_start = warm_start.duals[1]
    if warm_start.numel() != count * m:
        raise ValueError(f"warm_start: expected {m} column duals, got {tuple(warm_start.shape)}")
    warm_start = warm_start.detach().double()
    if on_device:  # not looked at: numbers that are not finite cost time alone
        return warm_start.to(problem.device).reshape(count, m).contiguous()
    check_finite("warm_start", warm_start)
    return warm_start.cpu().reshape(count, m).contiguous()
