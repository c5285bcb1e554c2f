"""Stochastic interpolants with functions of the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastgen.common.checks import check_choice, check_nonnegative
from fastgen.common.derivatives import Pullback, outside_inference_mode
from fastgen.training.paths.path import Path

Function = Callable[[Tensor], Tensor]


def _encoding(t: Tensor) -> Tensor:
    return torch.where(t < 0.5, torch.cos(math.pi * t).square(), 0.0)


def _decoding(t: Tensor) -> Tensor:
    return torch.where(t > 0.5, torch.cos(math.pi * t).square(), 0.0)


INTERPOLATIONS: dict[str, tuple[Function, Function]] = {
    "linear": (lambda t: 1 - t, lambda t: t),
    "trigonometric": (
        lambda t: torch.cos(math.pi / 2 * t),
        lambda t: torch.sin(math.pi / 2 * t),
    ),
    "encoder_decoder": (_encoding, _decoding),
}
GAMMAS: dict[str, Function] = {
    "brownian": lambda t: torch.sqrt(2 * t * (1 - t)),
    "quadratic": lambda t: t * (1 - t),
    "sine_squared": lambda t: torch.sin(math.pi * t).square(),
}


class Interpolant(Path):
    """Stochastic interpolant x_t = a(t) x0 + b(t) x1 + gamma(t) z.

    interpolation: "linear"; "trigonometric" (with sigma below Tong's variance-preserving path);
    "encoder_decoder" (cos^2(pi t) of x0 in the first half, of x1 in the second); or a pair of
    functions of a float64 tensor t, which autograd differentiates. Such a pair has
    a(0) = b(1) = 1 and a(1) = b(0) = 0.

    gamma: None, a number (the same at all times), "brownian" (sqrt(2 t (1 - t))),
    "quadratic" (t (1 - t)), "sine_squared", or a function.
    Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797), table 4.
    """

    def __init__(
        self,
        interpolation: str | tuple[Function, Function] = "linear",
        gamma: str | float | Function | None = None,
        *,
        data_at: int = 1,
    ) -> None:
        super().__init__(data_at)
        if isinstance(interpolation, str):
            check_choice("interpolation", interpolation, INTERPOLATIONS)
        if isinstance(gamma, str):
            check_choice("gamma", gamma, GAMMAS)
        if isinstance(gamma, int | float):
            check_nonnegative("gamma", gamma)
        self.interpolation, self.gamma = interpolation, gamma

    @property
    def has_noise(self) -> bool:
        """Whether there is a gamma."""
        return self.gamma is not None and self.gamma != 0

    @outside_inference_mode
    def coefficients(self, t: Tensor) -> dict[str, Tensor]:
        """The functions, with derivatives by autograd."""
        pair = self.interpolation
        a, b = INTERPOLATIONS[pair] if isinstance(pair, str) else pair
        found: dict[str, Tensor] = {}
        for name, function in (("a", a), ("b", b), ("s", self._gamma())):
            shown = {"a": "interpolation[0]", "b": "interpolation[1]", "s": "gamma"}[name]
            with torch.no_grad():
                pull = Pullback(function, t, shown, "t")
                slope = pull.one(torch.ones_like(t), last=True)
            found |= {name: pull.value.detach(), f"d{name}": slope.detach()}
        return {**found, "std": found["s"]}

    def _gamma(self) -> Function:
        gamma = self.gamma
        if isinstance(gamma, str):
            return GAMMAS[gamma]
        if gamma is None or isinstance(gamma, int | float):
            return lambda t: torch.full_like(t, gamma or 0.0)
        return gamma
