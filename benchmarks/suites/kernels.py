"""The kernels alone, one thread, beside preallocated eager PyTorch and torch.compile."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.tools.harness import Case, Provider, measured
from benchmarks.tools.rows import Row
from fastgen.kernels import Noise, bridge, dispatch
from fastgen.kernels.runge_kutta.contract import Control, Workspace
from fastgen.kernels.runge_kutta.operator import operations
from fastgen.ode import Controller
from fastgen.ode.tableaus import ADAPTIVE

ROWS = 256


def combination(elements: int) -> Case:
    """out = 0.5 x + 0.25 y - 0.125 z."""
    x, y, z = torch.randn(3, 1, elements).unbind(0)
    weights = 0.5, 0.25, -0.125
    table = torch.tensor([[weights]], dtype=torch.float64)
    out, eager = torch.empty_like(x), torch.empty_like(x)
    bound = dispatch.find("bind_combine", x.device)([x, y, z], [out], table)

    def fastgen() -> torch.Tensor:
        bound([])
        return out

    def preallocated() -> torch.Tensor:
        torch.mul(x, weights[0], out=eager)
        return eager.add_(y, alpha=weights[1]).add_(z, alpha=weights[2])

    def formula(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return weights[0] * x + weights[1] * y + weights[2] * z

    compiled = torch.compile(formula, dynamic=False)
    return Case(
        "kernels",
        "three terms",
        (1, elements),
        torch.float32,
        [
            Provider("fastgen", fastgen),
            Provider("eager, preallocated", preallocated, "torch"),
            Provider("torch.compile", lambda: compiled(x, y, z), "torch"),
        ],
        tolerance=1e-6,
        floor_bytes=16 * elements,
    )


def noisy_step(elements: int) -> Case:
    """out = 0.9 x - 0.3 eps + 0.2 noise: a DDPM step."""
    x, eps = torch.randn(2, 1, elements).unbind(0)
    weights = 0.9, -0.3, 0.2
    table = torch.tensor([[weights]], dtype=torch.float64)
    noise = Noise(torch.tensor([1]), torch.arange(1), torch.tensor([1]))
    out, eager, normal = (torch.empty_like(x) for _ in range(3))
    bound = dispatch.find("bind_combine", x.device)([x, eps], [out], table, None, noise)

    def fastgen() -> torch.Tensor:
        bound([])
        return out

    def preallocated() -> torch.Tensor:
        normal.normal_()
        torch.mul(x, weights[0], out=eager)
        return eager.add_(eps, alpha=weights[1]).add_(normal, alpha=weights[2])

    def formula(x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        return weights[0] * x + weights[1] * eps + weights[2] * torch.randn_like(x)

    compiled = torch.compile(formula, dynamic=False)
    return Case(
        "kernels",
        "two terms and noise",
        (1, elements),
        torch.float32,
        [
            Provider("fastgen", fastgen),
            Provider("eager, preallocated", preallocated, "torch"),
            Provider("torch.compile", lambda: compiled(x, eps), "torch"),
        ],
        floor_bytes=12 * elements,
    )


def normals(elements: int) -> Case:
    """Standard normals of a seed, a sample and a draw."""
    seeds, ids, draw = torch.tensor([1]), torch.arange(1), torch.tensor([1])
    eager = torch.empty(1, elements)
    kernel = dispatch.find("normals", eager.device)
    compiled = torch.compile(lambda like: torch.randn_like(like), dynamic=False)
    return Case(
        "kernels",
        "normals",
        (1, elements),
        torch.float32,
        [
            Provider("fastgen", lambda: kernel(elements, seeds, ids, draw, 0)),
            Provider("eager, preallocated", eager.normal_, "torch"),
            Provider("torch.compile", lambda: compiled(eager), "torch"),
        ],
        floor_bytes=4 * elements,
    )


def training_batch(elements: int) -> Case:
    """x_t = (1 - t) x_0[i] + t x_1[j] and the velocity x_1[j] - x_0[i] of 256 paired rows."""
    x0, x1 = torch.randn(2, ROWS, elements // ROWS).unbind(0)
    pairs = torch.randperm(ROWS), torch.randperm(ROWS)
    t = torch.rand(ROWS, dtype=torch.float64)
    ones = torch.ones_like(t)
    rows = [torch.stack([1 - t, t, 0 * t], 1), torch.stack([-ones, ones, 0 * t], 1)]
    table = torch.stack(rows, 1)
    noise = Noise(torch.tensor([1]), torch.arange(ROWS), torch.tensor([0]))
    a, b, state, velocity = (torch.empty_like(x0) for _ in range(4))
    t32, rest = t.float()[:, None], (1 - t).float()[:, None]

    def fastgen() -> torch.Tensor:
        found = bridge(x0, x1, table, t, noise, index0=pairs[0], index1=pairs[1], noisy=False)
        return found[1]

    def preallocated() -> torch.Tensor:
        torch.index_select(x0, 0, pairs[0], out=a)
        torch.index_select(x1, 0, pairs[1], out=b)
        torch.mul(a, rest, out=state).addcmul_(b, t32)
        torch.sub(b, a, out=velocity)
        return state

    def formula(x0: torch.Tensor, x1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = x0[pairs[0]], x1[pairs[1]]
        return rest * a + t32 * b, b - a

    compiled = torch.compile(formula, dynamic=False)

    return Case(
        "kernels",
        "training batch",
        (ROWS, elements // ROWS),
        torch.float32,
        [
            Provider("fastgen", fastgen),
            Provider("eager, preallocated", preallocated, "torch"),
            Provider("torch.compile", lambda: compiled(x0, x1)[0], "torch"),
        ],
        tolerance=1e-6,
        floor_bytes=16 * elements,
    )


def error_norm(elements: int) -> Case:
    """The scaled norm of Dormand-Prince's embedded error for 256 rows, and their next steps.

    The others compute the norm alone.
    """
    tableau = ADAPTIVE["dopri5"]
    y, y_new = torch.randn(2, ROWS, elements // ROWS).unbind(0)
    end = torch.tensor([elements // ROWS])
    work = Workspace.allocate(
        y, tableau.matrix, tableau.nodes, tableau.errors, tableau.polynomials, end,
        torch.linspace(0, 1, 2, dtype=torch.float64),
        Controller.of("pid", min_step=1e-9, max_step=0.5).step_size(tableau.order, 1 << 60),
    )  # fmt: skip
    work.k.normal_()
    work.y_new.copy_(y_new)
    work.control[Control.STEP], work.control[Control.END] = 0.01, 1.0
    work.control[Control.RTOL] = work.control[Control.ATOL] = 1e-3
    steps = operations(work)
    weights = (0.01 * tableau.errors).float()
    error, scale = torch.empty_like(y), torch.empty_like(y)

    def fastgen() -> torch.Tensor:
        steps.control()
        return work.control[Control.ERROR]

    def preallocated() -> torch.Tensor:
        torch.mul(work.k[0], weights[0].item(), out=error)
        for i, weight in enumerate(weights.tolist()):
            if i and weight:
                error.add_(work.k[i], alpha=weight)
        torch.maximum(work.y.abs(), work.y_new.abs(), out=scale)
        error.div_(scale.mul_(1e-3).add_(1e-3))
        return error.square_().mean(1, dtype=torch.float64).sqrt_()

    def formula(k: torch.Tensor, y: torch.Tensor, y_new: torch.Tensor) -> torch.Tensor:
        error = (weights[:, None, None] * k).sum(0)
        scale = 1e-3 + 1e-3 * torch.maximum(y.abs(), y_new.abs())
        return (error / scale).square().mean(1, dtype=torch.float64).sqrt()

    compiled = torch.compile(formula, dynamic=False)
    return Case(
        "kernels",
        "error norm and step size",
        (ROWS, elements // ROWS),
        torch.float32,
        [
            Provider("fastgen", fastgen),
            Provider("eager, preallocated", preallocated, "torch"),
            Provider("torch.compile", lambda: compiled(work.k, work.y, work.y_new), "torch"),
        ],
        tolerance=1e-5,
        floor_bytes=4 * (len(weights.nonzero()) + 2) * elements,
    )


def cases(quick: bool) -> list[Case]:
    """All cases of the suite."""
    sizes = [2**20] if quick else [2**16, 2**20, 2**22]
    made = combination, noisy_step, normals, training_batch, error_norm
    # Of what draws noise also larger than the caches: page faults and streams of writes.
    large = [] if quick else [f(n) for n in (2**24, 2**26) for f in (noisy_step, normals)]
    return [f(n) for n in sizes for f in made] + large


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    return measured(cases(quick), quick)
