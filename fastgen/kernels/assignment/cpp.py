"""Exact assignment in C++ on CPU tensors (``csrc/assignment``)."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import torch
from torch import Tensor

import fastgen._C as _C
from fastgen.kernels.assignment.contract import (
    TOLERANCE,
    Matching,
    NotFiniteError,
    Options,
    Problem,
    Shipment,
    centred,
    check_finite,
    check_fits,
    near_one,
    times_power,
)
from fastgen.kernels.cpp_support import address, readable, thread_count

# A second thread pays from so many costs on.
PARALLEL_FROM = 1 << 20
# solve_given(matrix, Assignment) -> an Assignment, or None, for one matrix [n, m] without options:
# a microsecond or more. None is for `solve`: of more than 2^20 costs, or n > m, or not contiguous
# float32 or float64 on the CPU, or without a pairing.
solve_given = _C.assign_given
# Up to so many dimensions the costs of points are computed when they are needed: as fast as their
# product, which is solved once more in float64 where rounding takes too much of it. In more of them
# that is done where the product was of no use, instead of that one, or would take more memory.
POINTS_UP_TO, POINTS_AGAIN_UP_TO = 16, 64
MOST_MULTIPLIED = 1 << 28
# Bytes of the largest product: half of the machine's memory. Larger ones are not made in any number
# of dimensions, though in 256 of them the way without takes five times as long.
LARGEST_PRODUCT = (
    os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if os.name == "posix" else 1 << 40
)
# A product in float64 is not the way to costs of which rounding takes more than this part.
LOST = 1e-9
# Clouds are multiplied as they are if no more than this part of |x|^2 is that of their mean: to
# take it off would save less than a bit.
NEAR_CENTRE = 0.25


def solve(problem: Problem, options: Options) -> Matching:
    """By an auction in levels and shortest augmenting paths; see `fastgen.couplings.assign`.

    Raises:
        ValueError: for a number that is not finite, NotFiniteError if it is a cost.
    """
    if problem.matrix is not None:
        matrix = readable(problem.matrix)
        return _run(problem, options, TOLERANCE[matrix.dtype], matrix=matrix)
    x0, x1 = problem.x0, problem.x1
    assert x0 is not None
    assert x1 is not None
    count, n, m = problem.sizes
    dims = x0.shape[2]
    again = dims <= POINTS_AGAIN_UP_TO or 8 * count * n * m > LARGEST_PRODUCT
    first = torch.float64 if problem.root else x0.dtype
    too_large = count * n * m * first.itemsize > LARGEST_PRODUCT
    if dims <= POINTS_UP_TO or too_large or (again and n * m > MOST_MULTIPLIED):
        check_finite(problem)
        return _by_points(problem, options)
    if x0.dtype == torch.float32 and not problem.root:
        found, good = _by_product(problem, options, x0, x1)
        if good:
            return found
        if again:
            check_finite(problem)
            return _by_points(problem, options)
    found, good = _by_product(problem, options, x0.double(), x1.double())
    return found if good else _by_points(problem, options)


def _by_points(problem: Problem, options: Options) -> Matching:
    """The solution for costs that are computed from differences, in any number of dimensions."""
    x0, x1 = problem.x0, problem.x1
    assert x0 is not None
    assert x1 is not None
    tolerance = TOLERANCE[x0.dtype]
    try:
        return _run(problem, options, tolerance, points=(x0, x1))
    except OverflowError:
        pass
    scaled, power = near_one(problem)
    assert scaled.x0 is not None
    assert scaled.x1 is not None
    points = (scaled.x0, scaled.x1)
    found = _run(scaled, replace(options, prices=None), tolerance, points=points)
    back = [times_power(x, power) for x in (found.cost, found.gap, found.rows, found.columns)]
    check_fits(back[0], problem)
    back[1] = back[1].nextafter(
        torch.tensor(math.inf, device="cpu").double()
    )  # what is below the smallest number
    return Matching(found.match, *back)


def _by_product(
    problem: Problem, options: Options, x0: Tensor, x1: Tensor
) -> tuple[Matching, bool]:
    """The solution, and whether that proves enough.

    x0, x1: the problem's points, in the dtype of the product. Of each pair, and of the one that
    it is compared with, the rounding is taken as one of the largest product; it is part of the gap.
    """
    (first, off), (second, other_off) = squared_norms(x0), squared_norms(x1)
    if off < NEAR_CENTRE and other_off < NEAR_CENTRE:
        a, b, shift = x0, x1, torch.zeros_like(x0[:, 0])
    else:  # far from the centre, or NaN
        check_finite(problem)
        a, b, shift = centred(x0, x1, problem.root)
        first, second = (squared_norms(x)[0] for x in (a, b))
    largest = (first.amax(1).double() * second.amax(1).double()).sqrt()
    float64 = x0.dtype == torch.float64
    if not float64 and not (largest.min() > 1e-30 and largest.max() < 1e30):
        # In float32 squares of very small or large numbers do not fit.
        return _by_product(problem, options, x0.double(), x1.double())
    if float64 and not (largest.min() > 1e-280 and largest.max() < 1e280):
        return _by_points(problem, options), True
    matrix = matrix_of(a, b, (first, second), problem.root)
    eps, pairs = torch.finfo(x0.dtype).eps, x0.shape[1]
    if problem.root:  # of squares to one of their roots
        nearest = 2 * matrix.amin((1, 2)).double()
        error = 2 * pairs * eps * largest / nearest.maximum((eps * largest).sqrt())
    else:
        error = 2 * pairs * eps * largest
    if options.prices is not None or options.duals:
        # From |b|^2 - 2 a.b of centred points to |a - b|^2 = |a - b + shift|^2 of the given.
        columns = -2 * torch.bmm(b, shift[:, :, None])[:, :, 0].double()
        if options.prices is not None:
            options = replace(options, prices=options.prices - columns)
    assert problem.x0 is not None
    left_out = None if problem.root else first.double().sum(1)
    tolerance = TOLERANCE[problem.x0.dtype]
    found = _run(problem, options, tolerance, matrix=matrix, left_out=left_out)
    if not problem.root and options.duals:
        found.columns += columns
        found.rows += first.double() + shift.double().square().sum(1, keepdim=True)
        found.rows += 2 * torch.bmm(a, shift[:, :, None])[:, :, 0].double()
    sizes = found.cost.clone()
    if not problem.root:
        _, n, dims = x0.shape
        for k, pair in enumerate(zip(x0, x1, found.match, strict=True)):
            from_, to, match = (address(x) for x in pair)
            found.cost[k], sizes[k] = _C.paired_cost(from_, to, match, n, dims, float64)
    found.gap += error
    doubt = error if options.epsilon else found.gap
    return found, bool((doubt <= 3.1 * max(tolerance, LOST if float64 else 0.0) * sizes).all())


def _run(
    problem: Problem,
    options: Options,
    tolerance: float,
    matrix: Tensor | None = None,
    points: tuple[Tensor, Tensor] | None = None,
    left_out: Tensor | None = None,
) -> Matching:
    """Solve for a matrix of costs, which may lack a constant of each row, or for points.

    left_out: the sum [N] of those constants.
    """
    count, n, m = problem.sizes
    match = torch.empty(count, n, dtype=torch.int64, device="cpu")
    rows = torch.empty(count, n, dtype=torch.float64, device="cpu")
    columns = torch.empty(count, m, dtype=torch.float64, device="cpu")
    sums = torch.empty(2, count, dtype=torch.float64, device="cpu")
    cost, gap = sums[0], sums[1]
    threads = options.threads
    if threads is None:
        threads = thread_count(count * n * m, PARALLEL_FROM)
    # What has no memory is no matter of costs; negative views are read as what they stand for.
    matrix = None if matrix is None else readable(matrix, "cost")
    points = None if points is None else (readable(points[0], "x0"), readable(points[1], "x1"))
    given = matrix if points is None else points[0]
    assert given is not None
    try:
        _C.assign(
            problems=count,
            float64=given.dtype == torch.float64,
            rows=n,
            columns=m,
            matrix=0 if matrix is None else address(matrix),
            row_points=0 if points is None else address(points[0]),
            column_points=0 if points is None else address(points[1]),
            dims=0 if points is None else points[0].shape[2],
            root=points is not None and problem.root,
            epsilon=options.epsilon,
            tolerance=tolerance,
            left_out=0 if left_out is None else address(left_out),
            warm_prices=0 if options.prices is None else address(options.prices),
            match=address(match),
            row_duals=address(rows),
            column_duals=address(columns),
            costs=address(cost),
            gaps=address(gap),
            threads=min(threads, 2**16),  # at most so many: no more could be started
        )
    except ValueError as error:  # of a number that is not finite
        raise NotFiniteError(str(error)) from None
    return Matching(match, cost, gap, rows, columns)


def matrix_of(x0: Tensor, x1: Tensor, squares: tuple[Tensor, Tensor], root: bool) -> Tensor:
    """Costs [N, n, m] of clouds by matrix multiplication; `squares` [N, n], [N, m] of the points.

    Of squared distances |a|^2 is left out, a constant of each row.
    """
    count = len(x0)
    costs = _C.pooled((count, x0.shape[1], x1.shape[1]), x0.dtype == torch.float64)
    if count == 1:
        torch.addmm(squares[1], x0[0], x1[0].T, alpha=-2, out=costs[0])
    else:
        torch.baddbmm(squares[1][:, None, :], x0, x1.mT, alpha=-2, out=costs)
    if root:
        costs.add_(squares[0][:, :, None]).clamp_(min=0).sqrt_()
    return costs


def squared_norms(x: Tensor) -> tuple[Tensor, float]:
    """|x_i|^2 [N, n], and of |x|^2 the part that is of the mean, the most of any problem.

    NaN or infinite where a number or its square is, and for clouds of zeros.
    """
    count, n, dims = x.shape
    squares = x.new_empty(count, n)
    float64 = x.dtype == torch.float64
    parts = [
        _C.moments(address(one), n, dims, float64, address(of_one))
        for one, of_one in zip(x, squares, strict=True)
    ]
    return squares, math.nan if any(map(math.isnan, parts)) else max(parts)


def ship(problem: Problem, supply: Tensor, demand: Tensor) -> Shipment:
    """See `fastgen.kernels.assignment.transport.ship`, for one problem."""
    _, n, m = problem.sizes
    given = [readable(x) for x in (problem.matrix, problem.x0, problem.x1) if x is not None]
    addresses = [address(x) for x in given]
    matrix, first, second = (*addresses, 0, 0) if problem.matrix is not None else (0, *addresses)
    rows, columns, amounts = torch.empty(3, n + m, dtype=torch.int64, device="cpu")
    u, v = (
        torch.empty(n, dtype=torch.float64, device="cpu"),
        torch.empty(m, dtype=torch.float64, device="cpu"),
    )
    try:
        count, cost, gap = _C.transport(
            float64=given[0].dtype == torch.float64,
            rows=n,
            columns=m,
            matrix=matrix,
            row_points=first,
            column_points=second,
            dims=0 if problem.x0 is None else problem.x0.shape[2],
            root=problem.root,
            supply=address(supply),
            demand=address(demand),
            cell_rows=address(rows),
            cell_columns=address(columns),
            amounts=address(amounts),
            row_duals=address(u),
            column_duals=address(v),
        )
    except ValueError as error:  # of a number that is not finite
        raise NotFiniteError(str(error)) from None
    return Shipment(rows[:count], columns[:count], amounts[:count], cost, gap, (u, v))
