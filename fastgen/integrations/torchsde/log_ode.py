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
from fastgen.sde.sources import grid_of


def solve_log_ode(
    f: Any, g: Any, y0: Tensor, times: Tensor, dt: float, bm: Any, entropy: int | None
) -> Tensor:
    """States [T, B, d].

    Args:
        f, g: called as f(t, y), t without axes; g is [B, d, m].
        bm: a motion with "davie" or "foster" areas; None makes one with "foster"'s.

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
    grid, places = grid_of(times, dt)
    states, y = [y0], y0
    for n, (start, end) in enumerate(pairwise(grid.tolist())):
        h = end - start
        w, a = bm(start, end, return_A=True)
        at, middle = (
            torch.tensor(t, dtype=y.dtype, device=y.device) for t in (start, start + h / 2)
        )
        half = y + h / 2 * f(at, y) + torch.einsum("bdk,bk->bd", g(at, y), w) / 2
        slopes = g(middle, half)
        bracket = _bracket(g, middle, half, slopes, a)
        y = y + h * f(middle, half) + torch.einsum("bdk,bk->bd", slopes, w) + bracket
        if n + 1 in places:
            states.append(y)
    return torch.stack(states)


def _bracket(g: Any, t: Tensor, y: Tensor, slopes: Tensor, a: Tensor) -> Tensor:
    """sum_k Dg_k(y) [sum_j g_j A_jk]."""
    total = torch.zeros_like(y)
    directions = torch.einsum("bdj,bjk->bdk", slopes, a)
    for k in range(a.shape[-1]):
        tangent = directions[..., k]
        total = total + torch.func.jvp(lambda x, k=k: g(t, x)[..., k], (y,), (tangent,))[1]
    return total
