"""The reversible Heun method, whose gradients need the memory of one step.

Kidger, Foster, Li and Lyons 2021, "Efficient and accurate gradients for neural SDEs" (arXiv
2105.13493). Beside the state y it carries x, where drift and diffusion are evaluated:

    x' = 2 y - x + h f(t, x) + g(t, x) dW,
    y' = y + h (f(t, x) + f(t', x')) / 2 + (g(t, x) + g(t', x')) dW / 2,     x_0 = y_0.

One evaluation a step, and the step can be undone in closed form, so the way back finds the states
of the way there to rounding:

    x = 2 y' - x' - h f(t', x') - g(t', x') dW,
    y = y' - h (f(t', x') + f(t, x)) / 2 - (g(t', x') + g(t, x)) dW / 2.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastgen.common.derivatives import check_recorded, elsewhere
from fastgen.common.once import differentiable_once
from fastgen.common.rounding import square_root
from fastgen.common.transforms import outside_transforms
from fastgen.kernels.stochastic_combine.contract import MONOMIALS
from fastgen.kernels.stochastic_combine.operator import stochastic_combine
from fastgen.sde.equation import Equation
from fastgen.sde.fixed import StepTimes
from fastgen.sde.sources import Source


class Leap:
    """The steps of a run, there and back."""

    @outside_transforms
    def __init__(self, equation: Equation, source: Source, grid: Tensor) -> None:
        self.equation, self.source = equation, source
        self.times, self.steps = StepTimes(grid, equation), len(grid) - 1
        self.signed = grid.diff()
        self.roots = square_root(self.signed.abs())
        self._tables: dict[float, tuple[Tensor, Tensor]] = {}

    def evaluate(self, place: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Drift and diffusion at the grid's time ``place``."""
        at_end = place == self.steps
        t = self.times.node(place - at_end, 1.0 if at_end else 0.0)
        return self.equation.drift(t, x), self.equation.diffusion(t, x)

    def noise(self, n: int) -> Tensor:
        """Z of step n."""
        return self.source.units(n, 1)[0]

    @outside_transforms
    def _weights(self, n: int, sign: float) -> tuple[Tensor, Tensor]:
        h, root = sign * float(self.signed[n]), sign * float(self.roots[n])
        if h not in self._tables:
            noise = 0 if self.equation.matrix or self.equation.scalar else 1
            both = torch.zeros(1, 2, 4, MONOMIALS, dtype=torch.float64, device="cpu")
            one = torch.zeros(1, 1, 3, MONOMIALS, dtype=torch.float64, device="cpu")
            both[0, 0, 0, 0], both[0, 0, 1, 0], both[0, 0, 2, 0] = 2, -1, h
            both[0, 1, 0, 0], both[0, 1, 2, 0] = 1, h / 2
            both[0, 0, 3, noise], both[0, 1, 3, noise] = root, root / 2
            one[0, 0, 0, 0], one[0, 0, 1, 0], one[0, 0, 2, noise] = 1, h / 2, root / 2
            device = self.equation.device
            if len(self._tables) > 64:  # lengths differ by rounding only, so few are used
                self._tables.clear()
            self._tables[h] = both.to(device), one.to(device)
        return self._tables[h]

    def leap(
        self, n: int, y: Tensor, x: Tensor, f: Tensor, g: Tensor, z: Tensor, sign: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """X' and y + (h f + g dW) / 2 of step n, or with sign -1 of the step back."""
        both, _ = self._weights(n, sign)
        new, half = self._apply([y, x, f], g, z, both)
        return new, half

    def land(
        self, n: int, half: Tensor, f: Tensor, g: Tensor, z: Tensor, sign: float = 1.0
    ) -> Tensor:
        """The new state, from the second value of `leap` and f and g at the first."""
        _, one = self._weights(n, sign)
        return self._apply([half, f], g, z, one)[0]

    def _apply(self, inputs: list[Tensor], g: Tensor, z: Tensor, table: Tensor) -> list[Tensor]:
        equation, given = self.equation, [z]
        if equation.matrix or equation.scalar:
            g, given = equation.product(g, z), []
        kinds = [equation.dtype] * table.shape[1]
        return stochastic_combine([*inputs, g], table, kinds, given=given)

    def run(
        self, y: Tensor, places: list[int], x: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States at the places [T, B, ...], and the last y and x; from y and, if given, x."""
        wanted, ys = set(places), [y]
        x = y if x is None else x
        f, g = self.evaluate(0, x)
        for n in range(self.steps):
            z = self.noise(n)
            x, half = self.leap(n, y, x, f, g, z)
            f, g = self.evaluate(n + 1, x)
            y = self.land(n, half, f, g, z)
            if n + 1 in wanted:
                ys.append(y)
        return torch.stack(ys), y, x


def solve_reversible(leap: Leap, y0: Tensor, places: list[int], parameters: list[Tensor]) -> Tensor:
    """States [T, B, ...]; differentiable in y0 and parameters, in the memory of one step."""
    ys: Tensor = _Reversible.apply(leap, places, y0, *parameters)
    return ys


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, leap: Leap, places: list[int], y0: Tensor, *parameters: Tensor) -> Tensor:
        ys, y, x = leap.run(y0, places)
        ctx.leap, ctx.places = leap, places
        ctx.save_for_backward(y, x, y0, *parameters)
        return ys

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        y, x, _, *parameters = ctx.saved_tensors
        leap: Leap = ctx.leap
        equation = leap.equation
        outputs = dict(zip(ctx.places, gradient, strict=True))
        totals = [torch.zeros_like(p) for p in parameters]

        def at_another(place: int, x: Tensor, which: int) -> Tensor:
            return leap.evaluate(place, elsewhere(x))[which]

        def through(place: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                values = leap.evaluate(place, x)
                if place == leap.steps:
                    f, g = (partial(at_another, place, x, k) for k in range(2))
                    check_recorded("f", values[0], f, "y")
                    check_recorded("g", values[1], g, "y")
                return x, *values

        def pull(x: Tensor, f: Tensor, g: Tensor, df: Tensor, dg: Tensor) -> Tensor:
            """The gradient of x from those of f and g; that of parameters is added."""
            pairs = [(v, d) for v, d in ((f, df), (g, dg)) if v.requires_grad]
            if not pairs:
                return torch.zeros_like(x)
            found = torch.autograd.grad(
                [v for v, _ in pairs],
                [x, *parameters],
                [d.to(v.dtype) for v, d in pairs],
                allow_unused=True,
            )
            for total, part in zip(totals, found[1:], strict=True):
                if part is not None:
                    total += part
            return torch.zeros_like(x) if found[0] is None else found[0]

        dy, dx = outputs[leap.steps].clone(), torch.zeros_like(y)
        x, f, g = through(leap.steps, x)
        df, dg = torch.zeros_like(f), torch.zeros_like(g)
        for n in reversed(range(leap.steps)):
            h, z = float(leap.signed[n]), leap.noise(n) * float(leap.roots[n])
            df, dg = df + h / 2 * dy, dg + equation.transposed(dy, z) / 2
            dx = dx + pull(x, f, g, df, dg)
            with torch.no_grad():
                unit = leap.noise(n)
                earlier, half = leap.leap(n, y, x.detach(), f.detach(), g.detach(), unit, -1.0)
            x, f, g = through(n, earlier)
            with torch.no_grad():
                y = leap.land(n, half, f.detach(), g.detach(), unit, -1.0)
            both = dx + dy / 2
            df, dg = h * both, equation.transposed(both, z)
            dy, dx = dy + 2 * dx, -dx
            if n in outputs:
                dy = dy + outputs[n]
        dx = dx + pull(x, f, g, df, dg)
        return None, None, dy + dx, *totals
