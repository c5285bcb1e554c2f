"""Exact assignment on the implementation that is asked for."""

import torch

from fastgen.kernels import dispatch
from fastgen.kernels.assignment.contract import Matching, NotFiniteError, Options, Problem
from fastgen.kernels.assignment.forbidden import allowed, check_feasible


def solve(problem: Problem, options: Options, backend: str = "auto") -> Matching:
    """Pair as many points as the smaller cloud has.

    Args:
        problem: what to solve; on the CPU unless backend="cuda".
        options: how. Prices need as many points in one cloud as in the other.
        backend: "cpp", "reference", "cuda", or "auto": C++ where it is built.

    Returns:
        The solution; match is -1 for points of x0 that are left over, and out of range where gap
        is NaN.

    Raises:
        ValueError: for numbers that are not finite (not on a GPU, where nothing waits for them)
            but costs of infinity, which forbid a pair, where there is no pairing without, and with
            backend="cuda" without an NVIDIA GPU or a compiler for it.
    """
    if backend == "auto":
        backend = "cpp" if dispatch.missing("cpp") is None else "reference"
    kernel = dispatch.load("assignment", backend)
    if kernel is None:
        raise ValueError(f"backend={backend!r}: there is no such implementation")
    _, rows, columns = problem.sizes
    own = problem.swapped if rows > columns else problem
    try:
        solution: Matching = kernel(own, options)
    except NotFiniteError:
        if own.matrix is None:
            raise
        own, forbidden, unit = allowed(own)
        solution = kernel(own, options)
        check_feasible(solution, forbidden)
        for values in (solution.cost, solution.gap, solution.rows, solution.columns):
            values.mul_(unit)
    if rows > columns:
        solution = solution.swapped(rows)
    if backend == "cuda":
        invalid = solution.gap.isnan()[:, None]
        solution.match = torch.where(invalid, columns, solution.match)
    return solution
