"""Exact assignment by scipy, lap, lapx, lapjv, ortools and POT, the matrix of costs given."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable

import numpy as np
from torch import Tensor

Solver = Callable[[Tensor], np.ndarray]
# Of lapx, whose module is lap's: those that return the rows and the columns of pairs.
METHODS = ("lapjvr", "lapjvh", "lapjvs", "lapjvx", "lapjvc")
# Whole numbers for ortools, of which the largest is so much: sums of them must fit.
LARGEST = 2.0**31


def scipy(costs: Tensor) -> np.ndarray:
    """scipy's function."""
    return importlib.import_module("scipy.optimize").linear_sum_assignment(costs.numpy())[1]


def lap(costs: Tensor) -> np.ndarray:
    """The first function of lap and lapx."""
    return importlib.import_module("lap").lapjv(costs.numpy())[1]


def lapjv(costs: Tensor) -> np.ndarray:
    """The package lapjv's."""
    return importlib.import_module("lapjv").lapjv(costs.numpy())[0]


def pot(costs: Tensor) -> np.ndarray:
    """POT's network simplex, as far as it must go."""
    uniform = np.full(len(costs), 1 / len(costs))
    plan = importlib.import_module("ot").emd(uniform, uniform, costs.double().numpy(), 10**8)
    return plan.argmax(1)


def ortools(costs: Tensor) -> np.ndarray:
    """Its cost scaling, on whole numbers; what is infinite is no arc."""
    name = "ortools.graph.python.linear_sum_assignment"
    solver = importlib.import_module(name).SimpleLinearSumAssignment()
    given = costs.double().numpy()
    rows, columns = np.nonzero(np.isfinite(given))
    values = given[rows, columns]
    if (values != np.rint(values)).any():
        values = values * (LARGEST / np.abs(values).max())
    solver.add_arcs_with_cost(rows, columns, np.rint(values).astype(np.int64))
    solver.solve()
    return np.array([solver.right_mate(row) for row in range(len(given))])


def method(name: str) -> Solver:
    """One of lapx."""

    def solve(costs: Tensor) -> np.ndarray:
        rows, columns = getattr(importlib.import_module("lap"), name)(
            costs.numpy(), return_cost=False
        )
        return columns[np.argsort(rows)]

    return solve


def batch_method(name: str) -> Callable[[Tensor], object]:
    """One of lapx for many problems on one thread."""

    def solve(costs: Tensor) -> object:
        return getattr(importlib.import_module("lap"), f"{name}_batch")(costs.numpy(), n_threads=1)

    return solve


def solvers() -> dict[str, tuple[str, Solver]]:
    """Those installed: name, distribution, and a function from costs to the columns of rows."""
    known: dict[str, tuple[str, str, Solver]] = {
        "scipy": ("scipy", "scipy", scipy),
        "lap": ("lap", "lap", lap),
        "lapjv": ("lapjv", "lapjv", lapjv),
        "POT": ("ot", "POT", pot),
        "ortools": ("ortools", "ortools", ortools),
    }
    found = {
        name: (package, solver)
        for name, (module, package, solver) in known.items()
        if importlib.util.find_spec(module)
    }
    if has_lapx():
        found["lap"] = ("lapx", lap)
        found |= {f"lapx {name}": ("lapx", method(name)) for name in METHODS}
    return found


def has_lapx() -> bool:
    """Whether the module lap is lapx's."""
    try:
        return bool(importlib.metadata.version("lapx"))
    except importlib.metadata.PackageNotFoundError:
        return False
