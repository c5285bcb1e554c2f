"""`odeint_dense`: a solution as a function of time."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_choice
from fastgen.integrations.torchdiffeq.problem import Function
from fastgen.integrations.torchdiffeq.solve import odeint

# At how many times the solution is kept.
NODES = 65


def odeint_dense(
    func: Function,
    y0: Tensor,
    t0: Tensor,
    t1: Tensor,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[[Tensor], Tensor]:
    """The solution of dy/dt = func(t, y), y(t0) = y0, as a function of any time in [t0, t1].

    Each value is a solve of the same tolerances from the last of 65 times before it, at which the
    solution is kept; torchdiffeq evaluates the interpolants of all steps. With gradients, which
    must lead back to y0 and to what func depends on, it is a solve from t0.

    Args:
        func, y0, rtol, atol, options: as of `odeint`; y0 is one tensor.
        t0, t1: the ends, t0 < t1.
        method: "dopri5" or None.

    Raises:
        ValueError: for another method; from the function, for a time out of [t0, t1].
    """
    check_choice("method", method or "dopri5", ("dopri5",))
    start, end = float(t0), float(t1)
    nodes = torch.linspace(start, end, NODES, dtype=torch.float64, device="cpu")
    settings: dict[str, Any] = {"rtol": rtol, "atol": atol, "options": options}
    with torch.no_grad():
        states = odeint(func, y0, nodes, **settings)
    times: list[float] = nodes.tolist()

    def solution(t: Tensor) -> Tensor:
        time = float(t)
        if not start <= time <= end:
            raise ValueError(f"t={time}: the solution is known on [{start}, {end}]")
        begin, y = start, y0
        if not torch.is_grad_enabled():
            k = bisect.bisect_right(times, time) - 1
            begin, y = times[k], states[k]
        if time == begin:
            return y
        span = torch.tensor([begin, time], dtype=torch.float64, device="cpu")
        found: Tensor = odeint(func, y, span, **settings)[-1]
        return found

    return solution
