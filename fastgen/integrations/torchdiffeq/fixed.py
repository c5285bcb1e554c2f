"""Methods on a grid of given steps, and scipy's solvers."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgen.common.errors import nearest
from fastgen.common.tableau import Tableau
from fastgen.common.transforms import to_list
from fastgen.common.unwritten import unwritten
from fastgen.integrations.torchdiffeq.implicit import TABLEAUS as IMPLICIT_TABLEAUS
from fastgen.integrations.torchdiffeq.implicit import implicit_step
from fastgen.integrations.torchdiffeq.problem import ADAMS
from fastgen.ode.tableaus import EULER, HEUN, MIDPOINT, RK4

# f(t, y), and the state at a time inside a step.
Slope = Callable[[Tensor, Tensor], Tensor]
StateAt = Callable[[Tensor], Tensor]
HEUN3 = Tableau(
    name="heun3",
    order=3,
    c=(0.0, 1 / 3, 2 / 3),
    a=((), (1 / 3,), (0.0, 2 / 3)),
    b=(1 / 4, 0.0, 3 / 4),
    source="Heun 1900",
)
TABLEAUS = {"euler": EULER, "midpoint": MIDPOINT, "heun2": HEUN, "heun3": HEUN3, "rk4": RK4}
EVENT_STEPS = 20_000
# Above it the roundings of Adams-Bashforth steps grow: of order 12, h = 0.01 and y' = 2 y / t + ..
# by 1e5 within 100 steps of float32, where order 8 is right to rounding.
EXPLICIT_ORDER = 8


class GridSolver:
    """Steps of one method along a grid.

    func works on one tensor y of any shape, t a tensor without axes in y's dtype.
    """

    def __init__(
        self, func: Slope, method: str, options: Mapping[str, Any], rtol: float, atol: float
    ) -> None:
        self.func, self.atol = func, atol
        self.slope = partial(unwritten, "func", func)
        self.interp = options.get("interp", "linear")
        if self.interp not in ("linear", "cubic"):
            known = nearest(str(self.interp), ("linear", "cubic"))
            raise ValueError(f"options: interp={self.interp!r}: {known}")
        self.perturb = bool(options.get("perturb", False))
        self.step_size = options.get("step_size")
        self.constructor = options.get("grid_constructor")
        if self.step_size is not None and self.constructor is not None:
            raise ValueError("step_size and grid_constructor are mutually exclusive arguments.")
        self.tableau = TABLEAUS.get(method)
        self.implicit = IMPLICIT_TABLEAUS.get(method)
        self.iterations = int(options.get("max_iters", 100))
        self.adams = None
        if method in ADAMS:
            implicit = method != "explicit_adams"
            order = options.get("max_order", 12 if implicit else EXPLICIT_ORDER)
            self.adams = Adams(self, implicit, order, options.get("max_iters", 4), rtol, atol)
        self.callback: Callable[..., Any] = lambda *arguments: None

    def at(self, t: Tensor, y: Tensor, side: int = 0) -> Tensor:
        """f, with perturb just after (side=1) or before (-1) a time of the grid."""
        if side and self.perturb:
            near = torch.nextafter(t.detach(), t.detach() + side)
            t = t + (near - t).detach()
        slope: Tensor = self.slope(t, y)
        return slope

    def step(self, t: Tensor, end: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The state at the end of a step and the slope at its start."""
        first = self.at(t, y, 1)
        if self.adams is not None:
            return self.adams.step(t, end, y, first), first
        if self.implicit is not None:
            parts = self.implicit, t, end, y, first, self.iterations
            return implicit_step(self.at, *parts), first
        assert self.tableau is not None
        return self.runge_kutta(self.tableau, t, end, y, first), first

    def runge_kutta(
        self, tableau: Tableau, t: Tensor, end: Tensor, y: Tensor, first: Tensor
    ) -> Tensor:
        """One step of a tableau from its first slope."""
        h = end - t
        slopes = [first]
        for row, c in zip(tableau.a[1:], tableau.c[1:], strict=True):
            inner = combined(y, h, row, slopes)
            slopes.append(self.at(end, inner, -1) if c == 1 else self.slope(t + c * h, inner))
        return combined(y, h, tableau.weights, slopes)

    def times(self, y: Tensor, t: Tensor, func: Slope) -> Tensor:
        """The grid from t[0] to t[-1].

        Raises:
            AssertionError: if a grid_constructor's grid begins or ends elsewhere.
        """
        if self.constructor is not None:
            grid: Tensor = self.constructor(func, y, t)
            ends = bool(grid[0] == t[0]) and bool(grid[-1] == t[-1])
            assert ends, "options: grid_constructor: the grid must begin and end where t does"
            return grid
        if self.step_size is None:
            return t
        ahead = 1 if len(t) < 2 or t[-1] > t[0] else -1
        count = int(torch.ceil((t[-1] - t[0]).abs() / self.step_size + 1))
        grid = torch.arange(count, dtype=t.dtype, device=t.device) * (ahead * self.step_size)
        return torch.cat([(grid + t[0])[:-1], t[-1:]])

    def solve(self, y: Tensor, t: Tensor) -> Tensor:
        """States [T, ...] at the times t [T], between steps from the interpolant."""
        ys, ahead = [y], 1 if len(t) < 2 or t[-1] > t[0] else -1
        grid = self.times(y, t, self.func).to(y.dtype)
        t = t.to(grid.dtype)
        outputs = to_list(t.detach() * ahead)
        stops = to_list(grid.detach() * ahead)
        for k, (begin, end) in enumerate(itertools.pairwise(grid.unbind())):
            self.callback(begin, y, (end - begin).abs())
            later, slope = self.step(begin, end, y)
            while len(ys) < len(t) and outputs[len(ys)] <= stops[k + 1]:
                exact = outputs[len(ys)] == stops[k + 1]
                between = self.interpolant(begin, end, y, later, slope)
                ys.append(later if exact else between(t[len(ys)]))
            y = later
        return torch.stack(ys)

    def interpolant(
        self, begin: Tensor, end: Tensor, y: Tensor, later: Tensor, slope: Tensor
    ) -> StateAt:
        """The state inside a step: a line, or the cubic of values and slopes at both ends."""
        h = end - begin
        last = self.slope(end, later) if self.interp == "cubic" else slope

        def value(t: Tensor) -> Tensor:
            x = ((t - begin) / h).to(y.dtype)
            if self.interp == "linear":
                return y + x * (later - y)
            rise = x * x * (3 - 2 * x)
            bend = x * (1 - x) * h * ((1 - x) * slope - x * last)
            return y + rise * (later - y) + bend

        return value

    def until(
        self, y: Tensor, t: Tensor, ahead: int, event: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(time, state) of the first step in which event, > 0 at the start, changes its sign.

        Raises:
            AssertionError: without a step_size.
            RuntimeError: after `EVENT_STEPS` steps.
        """
        assert self.step_size is not None, (
            "Event handling for fixed step solvers currently requires `step_size` to be provided "
            "in options."
        )
        # Times in float64: a sum of many float32 steps is off by more than the event's tolerance.
        start, ahead_by = t.double(), float(ahead * self.step_size)
        t = t.to(y.dtype)
        for n in range(1, EVENT_STEPS + 1):
            begin = start + (n - 1) * ahead_by
            end = (start + n * ahead_by).to(y.dtype)
            later, slope = self.step(t, end, y)
            if event(end, later) <= 0:
                between = self.interpolant(t, end, y, later, slope)
                low, high = begin, start + n * ahead_by
                with torch.no_grad():
                    while abs(float(high - low)) > self.atol:
                        middle = (low + high) / 2
                        if bool(middle == low) or bool(middle == high):
                            break
                        if event(middle.to(y.dtype), between(middle)) > 0:
                            low = middle
                        else:
                            high = middle
                    found = (low + high) / 2
                return found, between(found)
            t, y = end, later
        raise RuntimeError(f"Reached maximum number of iterations {EVENT_STEPS}.")


def combined(y: Tensor, h: Tensor, weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """y + h sum_j w_j k_j, the slopes summed first: y is rounded once in a step.

    h [] in y's dtype, a number where it needs no gradient.
    """
    terms = [(w, k) for w, k in zip(weights, slopes, strict=False) if w]
    if not terms:
        return y
    total = terms[0][1] * terms[0][0]
    for w, k in terms[1:]:
        total = torch.add(total, k, alpha=w)
    return y + h * total if h.requires_grad else torch.add(y, total, alpha=float(h))


@lru_cache(maxsize=256)
def adams_weights(nodes: tuple[float, ...]) -> tuple[float, ...]:
    """w_j = int_0^1 of the Lagrange polynomials of the nodes, by Gauss's rule with 8 points.

    Exact for up to 16 nodes.
    """
    x, g = np.polynomial.legendre.leggauss(8)
    x, at = (x + 1) / 2, np.array(nodes)
    weights = []
    for j, node in enumerate(at):
        others = np.delete(at, j)
        factors = (x[:, None] - others) / (node - others)
        weights.append(float((g / 2) @ factors.prod(1)))
    return tuple(weights)


class Adams:
    """Adams-Bashforth, and corrected by Adams-Moulton, of growing order up to max_order.

    Bashforth and Adams 1883; Hairer, Norsett and Wanner 1993, III.1. The weights are those of the
    grid's own steps. Three steps of the 3/8 rule start it.
    """

    def __init__(
        self,
        grid: GridSolver,
        implicit: bool,
        max_order: int,
        max_iters: int,
        rtol: float,
        atol: float,
    ) -> None:
        assert max_order <= 12, "max_order must be at most 12"
        if max_order < 4:
            warnings.warn("max_order is below 4, so the solver reduces to `rk4`.", stacklevel=4)
        self.grid, self.implicit, self.keep = grid, implicit, max_order - 1
        self.iterations, self.rtol, self.atol = max_iters, rtol, atol
        self.past: list[tuple[float, Tensor]] = []

    def step(self, t: Tensor, end: Tensor, y: Tensor, first: Tensor) -> Tensor:
        """The state at the end of a step."""
        h, start = end - t, float(t.detach())
        self.past.insert(0, (start, first))
        del self.past[max(self.keep, 1) :]
        if len(self.past) < 3 or self.keep < 3:
            return self.grid.runge_kutta(RK4, t, end, y, first)
        size = float(h.detach())
        # Rounded, so that steps equal but for rounding share one set of weights.
        nodes = [(s - start) / size for s, _ in self.past]
        nodes = [round(x) if abs(x - round(x)) < 1e-4 else x for x in nodes]
        slopes = [k for _, k in self.past]
        value = combined(y, h, adams_weights(tuple(nodes)), slopes)
        if not self.implicit:
            return value
        weights = adams_weights((1.0, *nodes))
        known = combined(y, h, weights[1:], slopes)
        for _ in range(self.iterations):
            before, value = value, combined(known, h, weights[:1], [self.grid.at(end, value, -1)])
            if self._converged(before - y, value - y):
                return value
        warnings.warn(
            "Functional iteration did not converge. Solution may be incorrect.", stacklevel=2
        )
        self.past.pop()
        return value

    def _converged(self, old: Tensor, new: Tensor) -> bool:
        scale = self.atol + self.rtol * torch.maximum(old.detach().abs(), new.detach().abs())
        return bool(((old - new).detach().abs() < scale).all())


def solve_scipy(
    func: Slope, y: Tensor, t: Tensor, options: Mapping[str, Any], rtol: float, atol: float
) -> Tensor:
    """States [T, ...] of scipy's `solve_ivp`, without gradients."""
    from scipy.integrate import solve_ivp

    def f(time: float, flat: Any) -> Any:
        state = torch.as_tensor(flat, device="cpu").to(y).reshape(y.shape)
        with torch.no_grad():
            slope = func(torch.as_tensor(time, device="cpu").to(y), state).detach().cpu().numpy()
            return slope.reshape(-1).copy()  # func may write its next value there

    times = t.detach().double().cpu().numpy()
    if len(times) == 1:
        return y.detach()[None]
    limits = {k: options[k] for k in ("min_step", "max_step") if k in options}
    found = solve_ivp(
        f,
        (times[0], times[-1]),
        y.detach().double().cpu().numpy().reshape(-1),
        t_eval=times,
        method=options.get("solver", "LSODA"),
        rtol=rtol,
        atol=atol,
        **limits,
    )
    if not found.success:
        raise RuntimeError(f"scipy_solver: {found.message}")
    return torch.as_tensor(found.y.T, device="cpu").to(y).reshape(len(times), *y.shape)
