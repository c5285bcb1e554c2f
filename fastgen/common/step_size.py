"""The sizes of error-controlled steps: of ordinary and stochastic equations and of DPM-Solver.

A step is accepted where its error, relative to the tolerance, is at most 1. The next one is as
long as the errors of the last three steps suggest. The kernels of `fastgen.ode` follow the same
rule in C++ and on GPUs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgen.common.checks import as_numbers, check_choice, check_number
from fastgen.common.display import displayed
from fastgen.common.rounding import power

# Errors count as this at least: a step without any error says nothing about its successor.
LEAST_ERROR = 1e-10
# A step may be this much longer than proposed to reach the end, where a tiny one would follow.
STRETCH = 1.01


class StepSize(NamedTuple):
    """The rule in numbers, as the kernels read it; made by `Controller.step_size`.

    beta: exponents of the last three errors. order: of the error, a power of the step.
    """

    safety: float
    min_factor: float
    max_factor: float
    min_step: float
    max_step: float
    beta: tuple[float, float, float]
    order: float
    max_steps: int

    def accepts(self, error: Tensor, size: Tensor) -> Tensor:
        """Which steps count, bool [R]: those with a small error, and the shortest ones."""
        return torch.isfinite(error) & ((error <= 1) | (size <= self.min_step))

    def factor(
        self,
        error: Tensor,
        taken: Tensor,
        past: tuple[Tensor, Tensor],
        most: Tensor | None = None,
    ) -> Tensor:
        """By how much the next step is longer, float64 [R].

        Args:
            error: of the step just tried, float64 [R].
            taken: whether it was accepted; after a refusal the next step is shorter.
            past: errors of the last accepted step and of the one before it; 1 where there is none.
            most: the largest factors of accepted steps, float64 [R]; None is `max_factor`.
        """
        found = self.safety * power(error.clamp(min=LEAST_ERROR), -self.beta[0])
        for beta, earlier in zip(self.beta[1:], past, strict=True):
            if beta:
                found = found * power(earlier, -beta)
        most = torch.full_like(error, self.max_factor) if most is None else most
        ceiling = torch.where(taken, most.to(error), self.safety)
        found = torch.minimum(found.clamp(min=self.min_factor), ceiling)
        return torch.where(torch.isfinite(error), found, self.min_factor)

    def within(self, size: Tensor) -> Tensor:
        """The size, neither longer nor shorter than allowed."""
        return size.clamp(min=self.min_step).clamp(max=self.max_step)


def fitted(rest: Tensor, size: Tensor) -> Tensor:
    """The next step, signed: of the size, or all of the rest [R] if that is hardly longer."""
    return torch.where(rest.abs() <= STRETCH * size, rest, torch.copysign(size, rest))


@displayed
@dataclass(frozen=True)
class Controller:
    """How the next step follows from the errors of the last three, and within which limits.

    With e_n the n-th error relative to the tolerance and k the order,

        h_{n+1} / h_n = safety e_n^-b0 e_{n-1}^-b1 e_{n-2}^-b2,
        b0 = (integral + proportional + derivative) / k,
        b1 = -(proportional + 2 derivative) / k,   b2 = derivative / k,

    within [min_factor, max_factor] (Soderlind 2003; the form of Hairer and Wanner 1996, IV.2).
    A step with e_n <= 1 is accepted. After a refusal the step does not grow.

    By name, `Controller.of`: "i" is integral control, "pi" damps the alternation between accepted
    and refused steps, "pid" damps more.

    Args:
        integral, proportional, derivative: gains.
        safety: part of the step that the error allows, 0 < safety <= 1.
        min_factor, max_factor: bounds of h_{n+1} / h_n.
        first_step: size of the first step, a number or one for each sample; None finds one.
        min_step: shortest step, accepted whatever its error.
        max_step: longest step.

    Raises:
        ValueError: naming the number that is out of range.
    """

    integral: float = 1.0
    proportional: float = 0.0
    derivative: float = 0.0
    safety: float = 0.9
    min_factor: float = 0.2
    max_factor: float = 10.0
    first_step: float | Tensor | None = None
    min_step: float = 0.0
    max_step: float = math.inf

    def __post_init__(self) -> None:
        for name in (
            "safety",
            "min_factor",
            "max_factor",
            "integral",
            "proportional",
            "derivative",
        ):
            check_number(name, getattr(self, name))
        if not 0 < self.safety <= 1:
            raise ValueError(f"safety={self.safety!r}: expected 0 < safety <= 1")
        if not 0 < self.min_factor <= self.safety:
            raise ValueError(f"min_factor={self.min_factor!r}: expected 0 < min_factor <= safety")
        if not 1 < self.max_factor < math.inf:
            raise ValueError(f"max_factor={self.max_factor!r}: expected 1 < max_factor < inf")
        for name in ("integral", "proportional", "derivative"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a finite number")
        if self.first_step is not None:
            try:
                size = as_numbers("first_step", self.first_step)
            except TypeError:
                raise TypeError(
                    f"first_step={self.first_step!r}: expected a number or one for each sample"
                ) from None
            if size.ndim > 1 or not size.numel():
                raise ValueError(
                    f"first_step: expected a number or one for each sample, got {list(size.shape)}"
                )
            if not bool(((size > 0) & torch.isfinite(size)).all()):
                raise ValueError(f"first_step={self.first_step!r}: expected positive numbers")
        for name in ("min_step", "max_step"):
            check_number(name, getattr(self, name))
        if not 0 <= self.min_step <= self.max_step or not self.max_step > 0:
            raise ValueError(
                f"min_step={self.min_step!r}, max_step={self.max_step!r}: expected "
                "0 <= min_step <= max_step"
            )

    @staticmethod
    def of(controller: str | Controller, **changes: Any) -> Controller:
        """The controller of that name, or the one given, with some numbers changed.

        Raises:
            ValueError: for an unknown name, with the nearest one.
        """
        if not isinstance(controller, Controller):
            controller = CONTROLLERS[check_choice("controller", controller, CONTROLLERS)]
        return replace(controller, **changes) if changes else controller

    def exponents(self, order: float) -> tuple[float, float, float]:
        """(b0, b1, b2) for an error of size h^order."""
        p, i, d = self.proportional, self.integral, self.derivative
        return (p + i + d) / order, -(p + 2 * d) / order, d / order

    def step_size(self, order: float, max_steps: int) -> StepSize:
        """The rule for errors of size h^order and at most so many attempts."""
        factors = self.safety, self.min_factor, self.max_factor
        return StepSize(
            *factors, self.min_step, self.max_step, self.exponents(order), order, max_steps
        )


CONTROLLERS = {
    "i": Controller(),
    "pi": Controller(integral=0.3, proportional=0.4),
    "pid": Controller(integral=0.3, proportional=0.3, derivative=0.1),
}
