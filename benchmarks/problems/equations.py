"""Differential equations, their values at no cost, and constants that suites share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


def van_der_pol(mu: float) -> Callable[[Tensor, Tensor], Tensor]:
    """x'' = mu (1 - x^2) x' - x."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        x, v = y.unbind(-1)
        return torch.stack([v, mu * (1 - x * x) * v - x], -1)

    return f


class GeometricBrownianMotion:
    """dy = -y dt + 0.3 y dW, whose functions cost next to nothing; in torchsde's form too."""

    noise_type = "diagonal"

    def __init__(self, sde_type: str = "ito") -> None:
        self.sde_type = sde_type

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        """Drift."""
        return -y

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        """Diffusion."""
        return 0.3 * y


class Replayed:
    """f's values in the order of a first run, at no cost."""

    def __init__(self, f: Callable[..., Tensor]) -> None:
        self.f, self.values, self.at = f, list[Tensor](), -1

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """The next value."""
        if self.at < 0:
            self.values.append(self.f(t, y).clone())
            return self.values[-1]
        self.at += 1
        return self.values[self.at - 1]

    def rewound(self, run: Callable[[], Any]) -> Callable[[], None]:
        """run, from the first value on; a run before it has recorded them."""
        run()

        def again() -> None:
            self.at = 0
            run()

        return again
