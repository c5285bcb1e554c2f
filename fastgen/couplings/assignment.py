"""Exact optimal assignment of two clouds of points."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor

from fastgen.common.errors import nearest
from fastgen.couplings import costs
from fastgen.kernels.assignment import cuda, reference

try:
    import fastgen._C as _C
except ImportError:  # not built: the reference is used
    _C = None  # type: ignore[assignment]

Backend = Literal["auto", "cpp", "reference", "cuda"]
BACKENDS = ("auto", "cpp", "reference", "cuda")
# Makes backend="auto" use the CUDA kernels for tensors on an NVIDIA GPU.
CUDA_SWITCH = "FASTGEN_CUDA_ASSIGN"
# A second thread pays from so many costs on.
PARALLEL_FROM = 1 << 20
# Clouds are multiplied as they are if no more than this part of |x|^2 is that of their mean: to
# take it off would save less than a bit.
NEAR_CENTRE = 0.25
# The certified gap relative to the cost at which float32 and float64 problems count as solved.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


@dataclass(frozen=True)
class Assignment:
    """A pairing, its cost, and a proof of how good it is; unpacks to the three.

    permutation: x0[i] pairs with x1[permutation[i]]; [n] or [N, n], int64, -1 where x0[i] is left
        over because x1 has fewer points.
    cost: the sum over pairs; batched, a float64 tensor [N]. With backend="cuda" a float64 tensor
        on the device, [] or [N], as is the gap: nothing waits until they are read.
    gap: no pairing costs less than cost - gap (by dual variables, in float64).
    duals: (u [n], v [m]), u_i + v_j <= c_ij up to rounding, sum(u) + sum(v) = cost - gap; None
        unless asked for.
    """

    permutation: Tensor
    cost: float | Tensor
    gap: float | Tensor
    duals: tuple[Tensor, Tensor] | None = None

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
    shortest augmenting paths (Jonker and Volgenant 1987), on costs in 2^27 levels; prices are
    refined in finer levels until the duality gap, in float64, is below 1e-6 (float32) or 1e-12
    (float64) of the cost, or rounding. Many equal points, or columns or rows of costs that are
    equal up to rounding, are one with copies (auction of similar objects, Bertsekas and Castanon
    1989).

    Args:
        x0: [n, ...]; points are flattened. Half precision is computed in float32.
        x1: [m, ...]. With n != m, as many pairs as the smaller cloud has points.
        cost: "sqeuclidean" |a - b|^2, "euclidean" |a - b|, a matrix [n, m] (x0 and x1 may then
            be left out), or a function of x0 and x1 that gives one. In more than 8 dimensions the
            first two are computed by matrix multiplication, and the gap is one of that matrix;
            the product then takes most of the time (5/6 of it for 512 points of 3072 numbers).
        mode: "exact", or "eps" for a pairing whose cost exceeds the least by at most `epsilon`
            times the range of the costs (of points: the squared diagonal, or diagonal, of the
            box around them) for each pair, and usually by far less; see `gap`.
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
            NVIDIA GPU, or "auto": C++ where it is built; tensors on other devices are copied to the
            CPU, and the result back, unless the environment has FASTGEN_CUDA_ASSIGN=1, which
            means "cuda" for tensors on an NVIDIA GPU. On the device nothing waits for the result:
            if some number is not finite, cost and gap are NaN and the permutation is out of range,
            so that it cannot be used unseen. `threads` plays no part there. More than 8 dimensions
            are multiplied in float64. The first call compiles the kernels, which takes seconds.

    Returns:
        An `Assignment`; `permutation, cost, gap = assign(x0, x1)`.

    Raises:
        TypeError, ValueError: naming the argument, for shapes that do not fit, empty clouds, NaN
            or infinite numbers, and options that do not go together.
        KeyboardInterrupt: within a fraction of a second of Ctrl-C.
    """
    if mode not in ("exact", "eps"):
        raise ValueError(f"mode={mode!r}: {nearest(mode, ('exact', 'eps'))}")
    if mode == "eps" and not 0 < epsilon < 1:
        raise ValueError(f"epsilon={epsilon}: expected a number in (0, 1), of the costs' range")
    if mode == "exact" and epsilon != 1e-3:
        raise ValueError(f"epsilon={epsilon} is of mode='eps'; got mode='exact'")
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads}: expected at least 1")
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}: {nearest(backend, BACKENDS)}")
    on_device = backend == "cuda" or (backend == "auto" and _cuda_chosen(x0, cost))
    problem = costs.problem(x0, x1, cost, batched, on_device)
    if backend in ("cpp", "reference") and problem.device.type != "cpu":
        raise ValueError(f"backend={backend!r} is for the CPU, got {problem.device}; use 'auto'")
    if backend == "cpp" and _C is None:
        raise ValueError("backend='cpp': the C++ kernels are not built; reinstall with a compiler")
    prices = _prices(warm_start, problem, on_device)
    solver = _solver(backend, problem.device, threads, on_device, return_duals)
    eps = epsilon if mode == "eps" else 0.0
    swap = problem.sizes[1] > problem.sizes[2]
    solution = solver.solve(_swapped(problem) if swap else problem, eps, prices)
    if swap:
        solution = _swap_back(solution, problem.sizes[1])
    if on_device:
        invalid = solution.gap.isnan()[:, None]
        solution.match = torch.where(invalid, problem.sizes[2], solution.match)
    return _assignment(solution, problem, batched, return_duals, on_device)


def _solver(
    backend: Backend, device: torch.device, threads: int | None, on_device: bool, duals: bool
) -> _Cuda | _Cpp | _Reference:
    if on_device:
        return _Cuda(device)
    if backend == "reference" or _C is None:
        return _Reference()
    return _Cpp(threads, duals)


def _cuda_chosen(x0: Tensor | None, cost: costs.Cost) -> bool:
    value = os.environ.get(CUDA_SWITCH, "0")
    if value not in ("0", "1"):
        raise ValueError(f"{CUDA_SWITCH}={value!r} in the environment: expected 0 or 1")
    given = cost if isinstance(cost, Tensor) else x0
    on_gpu = isinstance(given, Tensor) and given.device.type == "cuda"
    return value == "1" and on_gpu and torch.version.hip is None


@dataclass
class _Solution:
    match: Tensor  # [N, n]
    cost: Tensor  # [N]
    gap: Tensor  # [N]
    rows: Tensor  # [N, n]
    columns: Tensor  # [N, m]


def _swapped(problem: costs.Problem) -> costs.Problem:
    matrix = None if problem.matrix is None else problem.matrix.mT
    names = problem.names[1], problem.names[0]
    return costs.Problem(problem.x1, problem.x0, matrix, problem.root, problem.device, names)


def _swap_back(solution: _Solution, n: int) -> _Solution:
    device = solution.match.device
    match = torch.full((len(solution.match), n), -1, device=device)
    values = torch.arange(solution.match.shape[1], device=device).expand_as(solution.match)
    match.scatter_(1, solution.match, values)
    return _Solution(match, solution.cost, solution.gap, solution.columns, solution.rows)


def _assignment(
    solution: _Solution,
    problem: costs.Problem,
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
    warm_start: Assignment | Tensor | None, problem: costs.Problem, on_device: bool
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
    if not torch.isfinite(warm_start).all():
        raise ValueError("warm_start: expected finite numbers")
    return warm_start.cpu().reshape(count, m).contiguous()


class _Cuda:
    def __init__(self, device: torch.device):
        self._runtime = cuda.runtime(device)

    def solve(self, problem: costs.Problem, epsilon: float, prices: Tensor | None) -> _Solution:
        given = problem.x0 if problem.matrix is None else problem.matrix
        assert given is not None
        found = cuda.solve(problem, epsilon, TOLERANCE[given.dtype], prices, self._runtime)
        return _Solution(found.match, found.cost, found.gap, found.rows, found.columns)


class _Reference:
    def solve(self, problem: costs.Problem, epsilon: float, prices: Tensor | None) -> _Solution:
        # Exact whatever epsilon, from scratch whatever the prices.
        if problem.matrix is not None:
            matrix = problem.matrix.double()
        else:
            assert problem.x0 is not None
            assert problem.x1 is not None
            costs.check_finite(problem)
            mode = "donot_use_mm_for_euclid_dist"
            matrix = torch.cdist(problem.x0.double(), problem.x1.double(), compute_mode=mode)
            matrix = matrix if problem.root else matrix.square()
        if not torch.isfinite(matrix).all():
            raise ValueError("cost: expected finite numbers")
        found = [reference.assign(one.numpy()) for one in matrix]
        match, rows, columns = (
            torch.stack([torch.from_numpy(f[k]) for f in found]) for k in range(3)
        )
        cost = matrix.gather(2, match[:, :, None])[:, :, 0].sum(1)
        gap = (cost - rows.sum(1) - columns.sum(1)).clamp(min=0)
        return _Solution(match, cost, gap, rows, columns)


class _Cpp:
    def __init__(self, threads: int | None, duals: bool):
        self._threads, self._duals = threads, duals

    def solve(self, problem: costs.Problem, epsilon: float, prices: Tensor | None) -> _Solution:
        if problem.matrix is not None:
            matrix = problem.matrix.contiguous()
            return self._run(problem.sizes, matrix.dtype, epsilon, prices, matrix=matrix)
        x0, x1 = problem.x0, problem.x1
        assert x0 is not None
        assert x1 is not None
        if x0.shape[2] <= costs.POINTS_UP_TO:
            costs.check_finite(problem)
            return self._run(
                problem.sizes, x0.dtype, epsilon, prices, points=(x0, x1), root=problem.root
            )
        if x0.dtype == torch.float32 and not problem.root:
            found, error = self._by_product(problem, x0, x1, epsilon, prices)
            if (error <= TOLERANCE[torch.float32] * found.cost / found.match.shape[1]).all():
                return found
        return self._by_product(problem, x0.double(), x1.double(), epsilon, prices)[0]

    def _by_product(
        self,
        problem: costs.Problem,
        x0: Tensor,
        x1: Tensor,
        epsilon: float,
        prices: Tensor | None,
    ) -> tuple[_Solution, Tensor]:
        """The solution, and what rounding of the product may do to a single cost."""
        (first, off), (second, other_off) = costs.squared_norms(x0), costs.squared_norms(x1)
        if off < NEAR_CENTRE and other_off < NEAR_CENTRE:
            a, b, shift = x0, x1, torch.zeros_like(x0[:, 0])
        else:  # far from the centre, or NaN
            costs.check_finite(problem)
            a, b, shift = costs.centred(x0, x1, problem.root)
            first, second = (costs.squared_norms(x)[0] for x in (a, b))
        largest = (first.amax(1).double() * second.amax(1).double()).sqrt()
        float64 = x0.dtype == torch.float64
        if not float64 and not (largest.min() > 1e-30 and largest.max() < 1e30):
            # In float32 squares of very small or large numbers do not fit.
            return self._by_product(problem, x0.double(), x1.double(), epsilon, prices)
        matrix = costs.matrix_of(a, b, (first, second), problem.root)
        if prices is not None or self._duals:
            # From |b|^2 - 2 a.b of centred points to |a - b|^2 = |a - b + shift|^2 of the given.
            columns = -2 * torch.bmm(b, shift[:, :, None])[:, :, 0].double()
            prices = None if prices is None else prices - columns
        assert problem.x0 is not None
        tolerance = TOLERANCE[problem.x0.dtype]
        left_out = None if problem.root else first.double().sum(1)
        found = self._run(
            problem.sizes, x0.dtype, epsilon, prices, tolerance, matrix, left_out=left_out
        )
        if not problem.root and self._duals:
            found.columns += columns
            found.rows += first.double() + shift.double().square().sum(1, keepdim=True)
            found.rows += 2 * torch.bmm(a, shift[:, :, None])[:, :, 0].double()
        if not problem.root:
            _, n, dims = x0.shape
            for k, pair in enumerate(zip(x0, x1, found.match, strict=True)):
                from_, to, match = (x.data_ptr() for x in pair)
                found.cost[k] = _C.paired_cost(from_, to, match, n, dims, float64)
        return found, torch.finfo(x0.dtype).eps * largest

    def _run(
        self,
        sizes: tuple[int, int, int],
        dtype: torch.dtype,
        epsilon: float,
        prices: Tensor | None,
        tolerance: float | None = None,
        matrix: Tensor | None = None,
        points: tuple[Tensor, Tensor] | None = None,
        left_out: Tensor | None = None,
        root: bool = False,
    ) -> _Solution:
        count, n, m = sizes
        match = torch.empty(count, n, dtype=torch.int64)
        rows = torch.empty(count, n, dtype=torch.float64)
        columns = torch.empty(count, m, dtype=torch.float64)
        sums = torch.empty(2, count, dtype=torch.float64)
        cost, gap = sums[0], sums[1]
        threads = self._threads
        if threads is None:
            threads = torch.get_num_threads() if count * n * m >= PARALLEL_FROM else 1
        try:
            _C.assign(
                problems=count,
                float64=dtype == torch.float64,
                rows=n,
                columns=m,
                matrix=0 if matrix is None else matrix.data_ptr(),
                row_points=0 if points is None else points[0].data_ptr(),
                column_points=0 if points is None else points[1].data_ptr(),
                dims=0 if points is None else points[0].shape[2],
                root=root,
                epsilon=epsilon,
                tolerance=TOLERANCE[dtype] if tolerance is None else tolerance,
                left_out=0 if left_out is None else left_out.data_ptr(),
                warm_prices=0 if prices is None else prices.data_ptr(),
                match=match.data_ptr(),
                row_duals=rows.data_ptr(),
                column_duals=columns.data_ptr(),
                costs=cost.data_ptr(),
                gaps=gap.data_ptr(),
                threads=threads,
            )
        except ValueError as error:  # of a number that is not finite
            raise ValueError(str(error)) from None
        return _Solution(match, cost, gap, rows, columns)
