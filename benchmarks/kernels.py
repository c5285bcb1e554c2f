"""The kernels alone, one thread, beside preallocated eager PyTorch and torch.compile."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.harness import Case, Provider, Row, measured
from fastgen.kernels import Noise, implementation


def combination(elements: int) -> Case:
    """out = 0.5 x + 0.25 y - 0.125 z."""
    x, y, z = torch.randn(3, 1, elements).unbind(0)
    weights = 0.5, 0.25, -0.125
    table = torch.tensor([[weights]], dtype=torch.float64)
    out, eager = torch.empty_like(x), torch.empty_like(x)
    bound = implementation(x.device).bind([x, y, z], [out], table)

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
    bound = implementation(x.device).bind([x, eps], [out], table, None, noise)

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


def cases(quick: bool) -> list[Case]:
    """All cases of the suite."""
    sizes = [2**20] if quick else [2**16, 2**20, 2**22]
    return [f(n) for n in sizes for f in (combination, noisy_step)]


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    return measured(cases(quick), quick)
