"""Exact assignment by scipy, lap, lapjv and POT, the matrix of costs given."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

import numpy as np
from torch import Tensor

Solver = Callable[[Tensor], np.ndarray]


def solvers() -> dict[str, tuple[str, Solver]]:
    """Those installed: name, distribution, and a function from costs to the columns of rows."""

    def scipy(costs: Tensor) -> np.ndarray:
        return importlib.import_module("scipy.optimize").linear_sum_assignment(costs.numpy())[1]

    def lap(costs: Tensor) -> np.ndarray:
        return importlib.import_module("lap").lapjv(costs.numpy())[1]

    def lapjv(costs: Tensor) -> np.ndarray:
        return importlib.import_module("lapjv").lapjv(costs.numpy())[0]

    def pot(costs: Tensor) -> np.ndarray:
        uniform = np.full(len(costs), 1 / len(costs))
        plan = importlib.import_module("ot").emd(uniform, uniform, costs.double().numpy(), 10**8)
        return plan.argmax(1)

    known = {
        "scipy": ("scipy", "scipy", scipy),
        "lap": ("lap", "lap", lap),
        "lapjv": ("lapjv", "lapjv", lapjv),
        "POT": ("ot", "POT", pot),
    }
    return {
        name: (package, solver)
        for name, (module, package, solver) in known.items()
        if importlib.util.find_spec(module)
    }
