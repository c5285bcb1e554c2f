"""The log-ODE method for general noise, with an approximation of the Levy areas.

A step follows dy/ds = f h + sum_k g_k W_k + sum_jk A_jk Dg_k g_j from s = 0 to 1 by the midpoint
rule (Lyons and Gaines 1997; Foster, Lyons and Oberhauser 2020, arXiv 1906.07099): Stratonovich
equations. For noise that commutes, diagonal, scalar or additive, the last sum is 0, and the method
is "midpoint".
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fastgen.common.memory import OwnMemory
from fastgen.integrations.torchsde.motions import AREAS, BrownianInterval, fresh_entropy
from fastgen.sde import Adaptive
from fastgen.sde.adaptive import solve_adaptive
from fastgen.sde.equation import Equation
from fastgen.sde.motions import CalledMotion, Parts
from fastgen.sde.sources import grid_of

ORDER = 1.0  # strong, as far as the areas' approximation goes


def solve_log_ode(
    f: Any,
    g: Any,
    y0: Tensor,
    times: Tensor,
    dt: float,
    bm: Any,
    entropy: int | None,
    control: Adaptive | None = None,
) -> Tensor:
    """States [T, B, d].

    Error-controlled steps compare a step with two of half the length, whose areas it has by Chen's
    relation, A = A_1 + A_2 + (W_1 x W_2 - W_2 x W_1) / 2. A refused step has other areas when it is
    tried again: those of its new parts.

    Args:
        f, g: called as f(t, y), t without axes; g is [B, d, m].
        bm: a motion with "davie" or "foster" areas; None makes one with "foster"'s.
        control: None takes fixed steps of at most dt.

    Raises:
        ValueError: for a motion without areas.
    """
    if bm is None:
        with torch.no_grad():
            width = g(times[0].to(y0), y0.detach()).shape[-1]
        seed = fresh_entropy() if entropy is None else entropy
        bm = BrownianInterval(
            times[0], times[-1], (len(y0), width), y0.dtype, y0.device, seed,
            levy_area_approximation="foster",
        )  # fmt: skip
    area = getattr(bm, "levy_area_approximation", None)
    if area not in AREAS:
        raise ValueError(
            f"bm: with levy_area_approximation={area!r}; method='log_ode' reads Levy areas: make "
            "it with 'davie' or 'foster', or take method='midpoint'"
        )
    own = OwnMemory()
    f, g = (lambda t, y, h=h: own(h(t, y)) for h in (f, g))
    if control is not None:
        equation = Equation(lambda t, y: f(t[0], y), lambda t, y: g(t[0], y), y0, "general")

        def step_to(
            y: Tensor, t: Tensor, h: Tensor, end: Tensor, parts: Parts, shared: dict[Any, Tensor]
        ) -> Tensor:
            return log_ode_step(f, g, y, float(t[0]), float(end[0]), *parts)

        motion = CalledMotion(
            bm, torch.Size(bm.shape), lambda m, s, t: tuple(m(s, t, return_A=True)), _joined
        )
        return solve_adaptive(equation, step_to, motion, times, y0, control, ORDER).ys
    grid, places = grid_of(times, dt)
    states, y = [y0], y0
    for n, (start, end) in enumerate(pairwise(grid.tolist())):
        y = log_ode_step(f, g, y, start, end, *bm(start, end, return_A=True))
        if n + 1 in places:
            states.append(y)
    return torch.stack(states)


def _joined(a: Parts, b: Parts, h: float, k: float) -> Parts:
    """W and A over two neighbouring intervals, by Chen's relation."""
    cross = a[0][..., None] * b[0][..., None, :]
    return a[0] + b[0], a[1] + b[1] + (cross - cross.mT) / 2


def log_ode_step(
    f: Any, g: Any, y: Tensor, start: float, end: float, w: Tensor, a: Tensor
) -> Tensor:
    """One step with the increment w [B, m] and the area a [B, m, m] over it."""
    h = end - start
    at, middle = (torch.tensor(t, dtype=y.dtype, device=y.device) for t in (start, start + h / 2))
    half = y + h / 2 * f(at, y) + torch.einsum("bdk,bk->bd", g(at, y), w) / 2
    slopes = g(middle, half)
    bracket = _bracket(g, middle, half, slopes, a)
    found: Tensor = y + h * f(middle, half) + torch.einsum("bdk,bk->bd", slopes, w) + bracket
    return found


def _bracket(g: Any, t: Tensor, y: Tensor, slopes: Tensor, a: Tensor) -> Tensor:
    """sum_k Dg_k(y) [sum_j g_j A_jk]."""
    total = torch.zeros_like(y)
    directions = torch.einsum("bdj,bjk->bdk", slopes, a)
    for k in range(a.shape[-1]):
        tangent = directions[..., k]
        total = total + torch.func.jvp(lambda x, k=k: g(t, x)[..., k], (y,), (tangent,))[1]
    return total
