"""Step-size control, the same for ordinary and stochastic equations."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastgen.common.errors import nearest
from fastgen.kernels.runge_kutta.contract import StepSize


@dataclass(frozen=True)
class Controller:
    """The next step's size from the errors of the last three.

    With e_n the n-th error relative to the tolerance and k the order,

        h_{n+1} / h_n = safety e_n^-b0 e_{n-1}^-b1 e_{n-2}^-b2,
        b0 = (integral + proportional + derivative) / k,
        b1 = -(proportional + 2 derivative) / k,   b2 = derivative / k,

    within [min_factor, max_factor] (Soderlind 2003; the form of Hairer and Wanner 1996, IV.2).
    A step with e_n <= 1 is accepted. After a rejection the step does not grow. "i" is integral
    control, "pi" damps the alternation between acceptance and rejection, "pid" damps more.

    Raises:
        ValueError: naming the number that is out of range.
    """

    integral: float = 1.0
    proportional: float = 0.0
    derivative: float = 0.0
    safety: float = 0.9
    min_factor: float = 0.2
    max_factor: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.safety <= 1:
            raise ValueError(f"safety={self.safety!r}: expected 0 < safety <= 1")
        if not 0 < self.min_factor <= self.safety:
            raise ValueError(f"min_factor={self.min_factor!r}: expected 0 < min_factor <= safety")
        if not 1 < self.max_factor < math.inf:
            raise ValueError(f"max_factor={self.max_factor!r}: expected 1 < max_factor < inf")
        for name in ("integral", "proportional", "derivative"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a finite number")

    def exponents(self, order: int) -> tuple[float, float, float]:
        """(b0, b1, b2) for an error estimate of size h^order."""
        p, i, d = self.proportional, self.integral, self.derivative
        return (p + i + d) / order, -(p + 2 * d) / order, d / order

    def step_size(self, order: int, min_step: float, max_step: float, max_steps: int) -> StepSize:
        """What the kernels need to know."""
        beta = self.exponents(order)
        bounds = self.safety, self.min_factor, self.max_factor, min_step, max_step
        return StepSize(*bounds, beta, order, max_steps)


CONTROLLERS = {
    "i": Controller(),
    "pi": Controller(integral=0.3, proportional=0.4),
    "pid": Controller(integral=0.3, proportional=0.3, derivative=0.1),
}


def find(controller: str | Controller) -> Controller:
    """The controller of that name, or the one given."""
    if isinstance(controller, Controller):
        return controller
    if controller not in CONTROLLERS:
        raise ValueError(f"controller={controller!r}: {nearest(str(controller), CONTROLLERS)}")
    return CONTROLLERS[controller]
