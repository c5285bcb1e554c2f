"""`odeint_dense`: a solution as a function of time."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_choice
from fastgen.integrations.torchdiffeq.asking import told_as
from fastgen.integrations.torchdiffeq.problem import Function, one_tolerance, options_of
from fastgen.integrations.torchdiffeq.solve import on_one_side, solve
from fastgen.ode.fixed import combined
from fastgen.ode.tableaus import DOPRI5


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

    The accepted steps of one solve are kept with their slopes k_j, and a value is the interpolant
    of the step that its time lies in (Shampine 1986, "Some practical Runge-Kutta formulas"),

        y(t + theta h) = y + h sum_j b_j(theta) k_j,     0 <= theta <= 1,

    of order 4 and without a jump in its slope: it takes no evaluation of func. The slopes are
    those of the accepted steps once more, in the caller's grad mode, so that values are
    differentiable in the time, in y0 and in what func depends on.

    Args:
        func, y0, rtol, atol, options: as of `odeint`; y0 is one tensor.
        t0, t1: the ends, t0 < t1.
        method: "dopri5" or None.

    Raises:
        ValueError: for another method, for steps of each sample's own, for t1 <= t0; from the
            function, for a time out of [t0, t1].
    """
    check_choice("method", method or "dopri5", ("dopri5",))
    options = dict(options or {})
    check_choice("options['step']", options.get("step", "joint"), ("joint",))
    start, end = float(t0), float(t1)
    if not start < end:
        raise ValueError(f"t0={start}, t1={end}: expected t0 < t1")
    begins: list[float] = []

    def told(t: Tensor, y: Tensor) -> Any:
        return func(t, y)

    def accepted(t: Tensor, y: Tensor, size: Tensor) -> None:
        begins.append(float(t))
        getattr(func, "callback_accept_step", _deaf)(t, y, size)

    told_as(func, told).callback_accept_step = accepted  # type: ignore[attr-defined]
    span = torch.tensor([start, end], dtype=torch.float64, device="cpu")
    tolerances = one_tolerance("rtol", rtol), one_tolerance("atol", atol)
    known = options_of("dopri5", options)
    solve(told, y0.detach(), span, "dopri5", known, tolerances, gradient="none")
    jump_t = options.get("jump_t")
    jumps = set() if jump_t is None else set(torch.as_tensor(jump_t).double().flatten().tolist())
    steps = _steps(func, y0, [*begins, end], jumps)

    def solution(t: Tensor) -> Tensor:
        time = float(t.detach() if isinstance(t, Tensor) else t)
        if not start <= time <= end:
            raise ValueError(f"t={time}: the solution is known on [{start}, {end}]")
        k = bisect.bisect_right(begins, time) - 1
        y, h, terms = steps[k]
        at = torch.as_tensor(t, dtype=torch.float64, device=y.device)
        theta = ((at - begins[k]) / h).to(y.dtype)
        value = terms[-1]
        for term in reversed(terms[:-1]):
            value = value * theta + term
        return (y + value * theta).reshape(y0.shape)

    return solution


def _deaf(*_: Tensor) -> None:
    """Of a func that is told of no accepted step."""


def _steps(
    func: Function, y0: Tensor, times: list[float], jumps: set[float]
) -> list[tuple[Tensor, Tensor, list[Tensor]]]:
    """(y [1, N], h [1], terms) of the steps between each two times: of theta's powers from 1 on."""
    found = []
    dense = torch.tensor(DOPRI5.dense, dtype=torch.float64, device="cpu").T.to(y0)
    y, last = y0.reshape(1, -1), None
    for begin, end in pairwise(times):
        asked = on_one_side(func, begin, end, jumps)

        def slope(t: float, y: Tensor, asked: Function = asked) -> Tensor:
            at = torch.tensor(t, dtype=torch.float64, device=y.device).to(y0.dtype)
            value: Tensor = asked(at, y.reshape(y0.shape))
            return value.to(y.dtype).reshape(1, -1).clone()

        h = torch.tensor([end - begin], dtype=torch.float64, device=y.device)
        # The last slope of a step is the first of the next, but where func jumps between them.
        slopes = [slope(begin, y) if last is None or begin in jumps else last]
        inner = y
        for i in range(1, DOPRI5.stages):
            inner = combined(y, h, DOPRI5.a[i], slopes)
            at = end if DOPRI5.c[i] == 1 else begin + DOPRI5.c[i] * (end - begin)
            slopes.append(slope(at, inner))
        terms = torch.tensordot(dense * h.to(y0), torch.stack(slopes), 1)
        found.append((y, h, list(terms)))
        y, last = inner, slopes[-1]
    return found
