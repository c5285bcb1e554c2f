"""Implicit Runge-Kutta steps, as torchdiffeq's methods of fixed steps for stiff equations.

A step of size h solves k_i = f(t + c_i h, y + h sum_j a_ij k_j) and ends at y + h sum_i b_i k_i
(Hairer and Wanner 1996, IV.5). The stages are found by Newton's method, whose linear systems are
solved by GMRES with products of the Jacobian from differences of f (Knoll and Keyes 2004): no
matrix of the state's size is kept. Gradients are those of the implicit function theorem at the
solution, not of the iterations that led there.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastgen.common.once import differentiable_once

# All stages [S, *y.shape] from all stages: k = F(k).
Stages = Callable[[Tensor], Tensor]
# GMRES: vectors kept before it starts anew, restarts, and the residual it is content with.
KRYLOV, RESTARTS = 40, 5
INEXACT = 1e-3
HALVINGS = 8


@dataclass(frozen=True)
class ImplicitTableau:
    """One method: nodes c, the square matrix a and the weights b.

    Raises:
        ValueError: for rows of a that do not sum to c, or weights that do not sum to 1.
    """

    name: str
    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    source: str

    def __post_init__(self) -> None:
        for i, (node, row) in enumerate(zip(self.c, self.a, strict=True)):
            if len(row) != len(self.c) or abs(sum(row) - node) > 1e-12:
                raise ValueError(f"{self.name}: a[{i}] must sum to c[{i}]={node}, got {row}")
        if abs(sum(self.b) - 1) > 1e-12:
            raise ValueError(f"{self.name}: the weights must sum to 1, got {self.b}")

    @property
    def blocks(self) -> list[range]:
        """Stages that are solved together: one by one where a is lower triangular."""
        stages = range(len(self.c))
        if any(self.a[i][j] for i in stages for j in stages if j > i):
            return [stages]
        return [range(i, i + 1) for i in stages]


S2, S3, S6, S15 = (math.sqrt(x) for x in (2, 3, 6, 15))
G = 1 - S2 / 2
TABLEAUS = {
    x.name: x
    for x in (
        ImplicitTableau("implicit_euler", 1, (1.0,), ((1.0,),), (1.0,), "Euler 1768"),
        ImplicitTableau("implicit_midpoint", 2, (0.5,), ((0.5,),), (1.0,), "Gauss's, one stage"),
        ImplicitTableau(
            "trapezoid", 2, (0.0, 1.0), ((0.0, 0.0), (0.5, 0.5)), (0.5, 0.5), "Lobatto IIIA"
        ),
        ImplicitTableau(
            "gl4",
            4,
            (0.5 - S3 / 6, 0.5 + S3 / 6),
            ((0.25, 0.25 - S3 / 6), (0.25 + S3 / 6, 0.25)),
            (0.5, 0.5),
            "Butcher 1964",
        ),
        ImplicitTableau(
            "gl6",
            6,
            (0.5 - S15 / 10, 0.5, 0.5 + S15 / 10),
            (
                (5 / 36, 2 / 9 - S15 / 15, 5 / 36 - S15 / 30),
                (5 / 36 + S15 / 24, 2 / 9, 5 / 36 - S15 / 24),
                (5 / 36 + S15 / 30, 2 / 9 + S15 / 15, 5 / 36),
            ),
            (5 / 18, 4 / 9, 5 / 18),
            "Butcher 1964",
        ),
        ImplicitTableau(
            "radauIIA3",
            3,
            (1 / 3, 1.0),
            ((5 / 12, -1 / 12), (0.75, 0.25)),
            (0.75, 0.25),
            "Ehle 1969",
        ),
        ImplicitTableau(
            "radauIIA5",
            5,
            (0.4 - S6 / 10, 0.4 + S6 / 10, 1.0),
            (
                (11 / 45 - 7 * S6 / 360, 37 / 225 - 169 * S6 / 1800, -2 / 225 + S6 / 75),
                (37 / 225 + 169 * S6 / 1800, 11 / 45 + 7 * S6 / 360, -2 / 225 - S6 / 75),
                (4 / 9 - S6 / 36, 4 / 9 + S6 / 36, 1 / 9),
            ),
            (4 / 9 - S6 / 36, 4 / 9 + S6 / 36, 1 / 9),
            "Ehle 1969",
        ),
        ImplicitTableau(
            "sdirk2", 2, (G, 1.0), ((G, 0.0), (1 - G, G)), (1 - G, G), "Alexander 1977"
        ),
        ImplicitTableau(
            "trbdf2",
            2,
            (0.0, 2 * G, 1.0),
            ((0.0, 0.0, 0.0), (G, G, 0.0), (S2 / 4, S2 / 4, G)),
            (S2 / 4, S2 / 4, G),
            "Bank et al. 1985; Hosea and Shampine 1996",
        ),
    )
}


def implicit_step(
    at: Callable[[Tensor, Tensor, int], Tensor],
    tableau: ImplicitTableau,
    t: Tensor,
    end: Tensor,
    y: Tensor,
    first: Tensor,
    max_iterations: int,
) -> Tensor:
    """The state at the end of a step; at(t, y, side) is f, first its value at the start.

    Warns where Newton's method has not found the stages after max_iterations.
    """
    h = end - t
    slopes: list[Tensor] = []
    for stages in tableau.blocks:
        i = stages[0]
        if len(stages) == 1 and not any(tableau.a[i]):
            slopes.append(first)
            continue
        # What the stages before add to each of the block's inputs.
        bases = [added(y, h, tableau.a[i][: len(slopes)], slopes) for i in stages]
        block = Block(at, tableau, stages, bases, t, end)
        with torch.no_grad():
            k = newton(block, torch.stack([first.detach()] * len(stages)), y, h, max_iterations)
        if torch.is_grad_enabled():
            value = block(k)
            if value.requires_grad:
                apply: Callable[..., Tensor] = _Solution.apply
                k = apply(value, k, block.detached())
        slopes += k.unbind(0)
    return added(y, h, tableau.b, slopes)


@dataclass(frozen=True)
class Block:
    """F of the equation k = F(k) of some stages, whose inputs begin at `bases`."""

    at: Callable[[Tensor, Tensor, int], Tensor]
    tableau: ImplicitTableau
    stages: range
    bases: list[Tensor]
    t: Tensor
    end: Tensor

    def __call__(self, k: Tensor) -> Tensor:
        """F(k), [S, *y.shape]."""
        values, h = [], self.end - self.t
        for base, i in zip(self.bases, self.stages, strict=True):
            c, row = self.tableau.c[i], [self.tableau.a[i][j] for j in self.stages]
            time = self.end if c == 1 else self.t + c * h
            inner = added(base, h, row, k.unbind(0))
            values.append(self.at(time, inner, -1 if c == 1 else int(c == 0)))
        return torch.stack(values)

    def detached(self) -> Block:
        """The same without what came before on the tape."""
        t, end = self.t.detach(), self.end.detach()
        return replace(self, bases=[b.detach() for b in self.bases], t=t, end=end)


def added(y: Tensor, h: Tensor, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """y + h sum_j w_j k_j."""
    for w, k in zip(weights, slopes, strict=False):
        if w:
            y = y + (h * w) * k
    return y


def rms(x: Tensor) -> float:
    """The root mean square, in float64."""
    return float(x.double().square().mean().sqrt()) if x.numel() else 0.0


def newton(found: Stages, k: Tensor, y: Tensor, h: Tensor, max_iterations: int) -> Tensor:
    """k = F(k) to rounding: Newton's steps from GMRES, halved while the residual grows."""
    size, unit = abs(float(h)), torch.finfo(k.dtype).eps
    value = found(k)
    left = rms(value - k)
    for _ in range(max_iterations):
        scale = rms(y) + size * rms(k)
        if not math.isfinite(left) or size * left <= 4 * unit * scale:
            break
        # Near the solution only rounding keeps a whole step from reducing the residual, and how
        # near that lets it come grows with the rates of f: shorter steps would not help.
        near = size * left <= math.sqrt(unit) * scale
        step, before = gmres(_difference(found, k, value), value - k, INEXACT), left
        for _ in range(1 if near else HALVINGS):
            tried = k + step
            later = found(tried)
            if rms(later - tried) < left:
                break
            step = step / 2
        else:
            break
        k, value, left = tried, later, rms(later - tried)
        if near and left > before / 2:
            break
    if not size * left <= math.sqrt(unit) * (rms(y) + size * rms(k)):
        warnings.warn(
            "Functional iteration did not converge. Solution may be incorrect.", stacklevel=2
        )
    return k


def _difference(found: Stages, k: Tensor, value: Tensor) -> Stages:
    """v -> (1 - dF/dk) v, from a difference of F over a length that v's own does not change."""
    length = math.sqrt(torch.finfo(k.dtype).eps) * (1 + rms(k)) * math.sqrt(k.numel())

    def product(v: Tensor) -> Tensor:
        size = float(torch.linalg.vector_norm(v))
        if not size:
            return v
        nudge = length / size
        return v - (found(k + nudge * v) - value) / nudge

    return product


def gmres(product: Callable[[Tensor], Tensor], b: Tensor, tolerance: float) -> Tensor:
    """x with |A x - b| <= tolerance |b|, from products A v alone (Saad and Schultz 1986)."""
    x, wanted = torch.zeros_like(b), tolerance * float(torch.linalg.vector_norm(b))
    for attempt in range(RESTARTS):
        r = b - product(x) if attempt else b
        beta = float(torch.linalg.vector_norm(r))
        if not beta > wanted or not math.isfinite(beta):
            break
        basis, goal = [r / beta], [beta]
        columns: list[list[float]] = []
        turns: list[tuple[float, float]] = []
        for _ in range(min(KRYLOV, b.numel())):
            v = product(basis[-1])
            column: list[float] = []
            for q in basis:
                column.append(float((v * q).sum()))
                v = v - column[-1] * q
            norm = float(torch.linalg.vector_norm(v))
            if not math.isfinite(norm):
                return x
            # The column is brought to triangular form by the rotations so far and a new one.
            for i, (c, s) in enumerate(turns):
                upper, lower = column[i], column[i + 1]
                column[i], column[i + 1] = c * upper + s * lower, c * lower - s * upper
            last = column[-1]
            size = math.hypot(last, norm)
            if size == 0:
                break
            turns.append((last / size, norm / size))
            column[-1] = size
            columns.append(column)
            goal[-1:] = [goal[-1] * last / size, -goal[-1] * norm / size]
            if abs(goal[-1]) <= wanted or norm == 0:
                break
            basis.append(v / norm)
        weights = [0.0] * len(columns)
        for i in reversed(range(len(columns))):
            later = sum(columns[j][i] * weights[j] for j in range(i + 1, len(columns)))
            weights[i] = (goal[i] - later) / columns[i][i]
        for w, q in zip(weights, basis, strict=False):
            x = x + w * q
    return x


class _Solution(torch.autograd.Function):
    """k of k = F(k, p): dk = (1 - dF/dk)^-1 dF/dp dp."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, k: Tensor, found: Stages) -> Tensor:
        ctx.found = found
        ctx.save_for_backward(k)
        return k.clone()

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        (k,) = ctx.saved_tensors
        with torch.enable_grad():
            inner = k.detach().clone().requires_grad_()
            value = ctx.found(inner)

        def product(v: Tensor) -> Tensor:
            (back,) = torch.autograd.grad(value, inner, v, retain_graph=True, allow_unused=True)
            return v if back is None else v - back

        given = gradients[0]
        if not value.requires_grad:
            return given, None, None
        return gmres(product, given, 16 * torch.finfo(k.dtype).eps), None, None
