"""The reversible Heun method with its own state, from one solve to the next."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgen.integrations.torchsde.motions import BrownianInterval, fresh_entropy
from fastgen.sde.equation import Equation
from fastgen.sde.reversible import Leap
from fastgen.sde.sources import CallableIncrements, PathIncrements, Source, grid_of


def solve_with_state(
    f: Any,
    g: Any,
    y0: Tensor,
    times: Tensor,
    dt: float,
    noise_type: str,
    bm: Any,
    state: Any,
    entropy: int | None,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """States at the times and (f, g, z) at the last, z being where f and g are evaluated.

    Args:
        f, g: called as f(t [B], y).
        bm: a motion; None makes one of the entropy.
        state: None, or (f, g, z) of an earlier solve: f and g are evaluated again, at z.
    """
    equation = Equation(f, g, y0, noise_type)
    start = times[:1].to(y0).expand(len(y0))
    if noise_type in ("additive", "general"):
        with torch.no_grad():
            equation.probe(start, y0.detach(), drift=False)
    grid, places = grid_of(times, dt)
    if bm is None:
        seed = fresh_entropy() if entropy is None else entropy
        bm = BrownianInterval(times[0], times[-1], equation.noise_shape, y0.dtype, y0.device, seed)
    if isinstance(bm, BrownianInterval):
        source: Source = PathIncrements(bm.path, grid, y0.dtype)
    else:
        source = CallableIncrements(bm, grid, equation.noise_shape, y0.detach())
    leap = Leap(equation, source, grid)
    ys, _, z = leap.run(y0, places, None if state is None else state[2])
    return ys, (*leap.evaluate(leap.steps, z), z)
