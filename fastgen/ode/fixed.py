"""Methods of fixed steps: Runge-Kutta and explicit Adams, differentiable as they stand."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgen.common.tableau import Tableau
from fastgen.ode.problem import Field
from fastgen.ode.tableaus import RK4
from fastgen.ode.watching import Watcher

# Order of `explicit_adams` once enough slopes are known; until then RK4's 3/8 rule starts it.
ADAMS_ORDER = 4


def runge_kutta_step(
    field: Field, tableau: Tableau, t: Tensor, h: Tensor, y: Tensor, first: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """y' and the slopes of one step of rows y [A, N] with t, h [A]; `first` is k_0 if known.

    In float64 the products h a_ij, as in the kernels. All is differentiable.
    """
    slopes = [evaluate(field, t, y) if first is None else first]
    for i in range(1, tableau.stages):
        inner = combined(y, h, tableau.a[i], slopes)
        slopes.append(evaluate(field, t + tableau.c[i] * h, inner))
    return (combined(y, h, tableau.weights, slopes) if tableau.b else inner), slopes


def evaluate(field: Field, t: Tensor, y: Tensor) -> Tensor:
    """f at float64 times [A]."""
    return field.call(t.to(y.dtype), y, None)


def combined(y: Tensor, h: Tensor, weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """y + sum_j (h w_j) k_j from left to right."""
    for w, k in zip(weights, slopes, strict=False):
        if w:
            y = y + (h * w).to(y.dtype)[:, None] * k
    return y


def solve_fixed(
    field: Field,
    y: Tensor,
    times: Tensor,
    tableau: Tableau | None,
    step_size: float | None,
    watcher: Watcher | None = None,
) -> tuple[Tensor, int]:
    """States [T, R, N] at the times [T] or [R, T], and the number of steps.

    Each interval between two times is cut into the fewest equal steps that are not longer than
    step_size (one step without it), so that every time is met exactly. tableau None is explicit
    Adams (Adams-Bashforth, Bashforth and Adams 1883) with weights for unequal steps. The watcher
    sees every step.
    """
    ys, steps = [y], 0
    times = times.expand(y.shape[0], -1)
    past: list[tuple[Tensor, Tensor]] = []
    for begin, end in zip(times.T[:-1], times.T[1:], strict=True):
        length = float((end - begin).detach().abs().max()) if len(y) else 0.0
        pieces = 1 if step_size is None else max(1, math.ceil(length / step_size - 1e-9))
        for i in range(pieces if length else 0):
            t = begin + (end - begin) * (i / pieces)
            h, point = (end - begin) / pieces, y
            if tableau is not None:
                y, slopes = runge_kutta_step(field, tableau, t, h, y)
            else:
                y = _adams_step(field, t, h, y, past)
                slopes = [past[0][1]]
            steps += 1
            if watcher is not None:
                watcher.fixed(end if i == pieces - 1 else t + h, y, t, point, slopes[0])
        ys.append(y)
    return torch.stack(ys), steps


def _adams_step(
    field: Field, t: Tensor, h: Tensor, y: Tensor, past: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """y + int_t^{t+h} of the polynomial through the last slopes; `past` holds them, last first."""
    slope = evaluate(field, t, y)
    past.insert(0, (t, slope))
    del past[ADAMS_ORDER:]
    if len(past) < ADAMS_ORDER:
        return runge_kutta_step(field, RK4, t, h, y, slope)[0]
    nodes = torch.stack([s - t for s, _ in past], -1) / h[:, None]
    # sum_j w_j x_j^m = 1 / (m + 1): exact for polynomials of degree below the order.
    powers = torch.arange(ADAMS_ORDER, dtype=torch.float64, device=y.device)
    distinct = bool((nodes.detach().diff() != 0).all())
    if not distinct:  # a sample that stands still: h = 0
        nodes = torch.where(h[:, None] == 0, -powers, nodes)
    moments = nodes[:, None, :] ** powers[None, :, None]
    weights = torch.linalg.solve(moments, (1 / (powers + 1)).expand(len(y), -1))
    for w, (_, k) in zip(weights.unbind(-1), past, strict=True):
        y = y + (h * w).to(y.dtype)[:, None] * k
    return y
