"""What networks predict, and the linear maps between those quantities.

Every prediction is a combination of data x_0 and noise eps, as the state x = alpha x_0 +
sigma eps is. State and prediction together therefore determine every other quantity:

    data x_0,   noise eps,   velocity dx/dt = alpha' x_0 + sigma' eps,
    v = alpha eps - sigma x_0        (Salimans and Ho 2022, arXiv 2202.00512),
    score = -eps / sigma             (Song et al. 2021, arXiv 2011.13456),
    edm: the inner network F of x_0 = c_skip x + c_out F(c_in x)
                                     (Karras et al. 2022, arXiv 2206.00364).

A network of two times may predict the average velocity over [t, s] (MeanFlow, Geng et al. 2025,
arXiv 2505.13447; shortcut models, Frans et al. 2024, arXiv 2410.12557). With both times equal it
is the velocity, so such a network serves every solver.

A pair of networks may predict the velocity and the score each on its own, between any two
distributions ([SF]2M, Tong et al. 2023, arXiv 2307.03672). Neither tells the other, nor the data.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

from fastgen.common.checks import check_choice, check_number
from fastgen.common.errors import nearest
from fastgen.common.tensors import is_tensor
from fastgen.schedules import Schedule

if TYPE_CHECKING:
    from torch import Tensor

Time = TypeVar("Time", float, "Tensor")

PAIR = "velocity_and_score"
QUANTITIES = ("data", "noise", "velocity", "v", "score", "edm", "average_velocity", PAIR)


@dataclass(frozen=True)
class Parametrisation:
    """What a network predicts, on which schedule.

    predicts: one of ``QUANTITIES``. data_at: 0 if the network's own time has data at 0 (as
    here), 1 if it has data at 1: then its velocity has the opposite sign. sigma_data: the
    standard deviation of the data that EDM's preconditioning assumes. transformed: stages are
    handed a data prediction that was transformed after the network, whatever that predicts.
    score_scale: the second of two outputs is this many times the score.
    """

    schedule: Schedule
    predicts: str = "data"
    data_at: int = 0
    sigma_data: float = 0.5
    transformed: bool = False
    score_scale: float = 1.0

    def __post_init__(self) -> None:
        check_choice("predicts", self.predicts, QUANTITIES)
        if not isinstance(self.data_at, numbers.Number) or self.data_at not in (0, 1):
            raise ValueError(f"data_at={self.data_at!r}: expected 0 or 1")
        if not check_number("sigma_data", self.sigma_data) > 0:
            raise ValueError(f"sigma_data={self.sigma_data!r}: expected a positive number")
        if not 0 < abs(self.score_scale) < math.inf:
            raise ValueError(f"score_scale={self.score_scale!r}: expected a finite number, not 0")

    @property
    def outputs(self) -> int:
        """How many tensors the network returns."""
        return 2 if self.predicts == PAIR else 1

    def output(self, quantity: str) -> int:
        """Which of the network's outputs determines the quantity, from 0."""
        return 1 if self.predicts == PAIR and quantity == "score" else 0

    @overload
    def input_scale(self, t: float) -> float: ...
    @overload
    def input_scale(self, t: Tensor) -> Tensor | float: ...
    def input_scale(self, t: Any) -> Any:
        """c_in(t), by which the state is multiplied before the network sees it."""
        if self.predicts != "edm":
            return 1.0
        return 1.0 / self._edm_norm(self.schedule.alpha(t), self.schedule.sigma(t))

    @overload
    def conversion(self, quantity: str, t: float) -> tuple[float, float]: ...
    @overload
    def conversion(self, quantity: str, t: Tensor) -> tuple[Tensor | float, Tensor | float]: ...
    def conversion(self, quantity: str, t: Any) -> tuple[Any, Any]:
        """(p, q) with quantity = p x + q output, for a network output at time t.

        Args:
            quantity: one of ``QUANTITIES`` but the pair.
            t: one time, or float64 times [A]. Tensors are not looked at, which would make a GPU
                wait: where the quantity is not finite p and q are not either.

        Raises:
            ValueError: where state and prediction do not determine the quantity (the noise
                does not tell the data where alpha = 0), or where it is not finite at a float t.
        """
        if self.transformed:
            return self.from_data(quantity, t)
        velocities = ("velocity", "average_velocity", PAIR)
        sign = -1.0 if self.data_at == 1 and self.predicts in velocities else 1.0
        if quantity == self.predicts:
            return 0.0, sign
        if self.predicts == PAIR:
            if quantity in ("velocity", "score"):
                return 0.0, sign if quantity == "velocity" else 1 / self.score_scale
            raise ValueError(
                f"predicts={PAIR!r}: the {quantity} does not follow from them; use a solver of "
                "velocity and score alone (bridge_sde, euler, heun, rk4, adams_bashforth ...)"
            )
        if quantity == "average_velocity":
            raise ValueError(
                f"predicts={self.predicts!r}: this solver needs a network of two times, "
                "Model(..., predicts='average_velocity')"
            )
        given = "velocity" if self.predicts == "average_velocity" else self.predicts
        return (0.0, sign) if quantity == given else self._solve(quantity, given, t, sign)

    def from_data(self, quantity: str, t: float) -> tuple[float, float]:
        """(p, q) with quantity = p x + q x_0, for a data prediction at time t."""
        if quantity == "average_velocity":
            raise ValueError(
                "average_velocity: data at one time do not determine it; leave clip and transform "
                "out, or use a solver of the velocity (euler, heun, rk4 ...)"
            )
        return (0.0, 1.0) if quantity == "data" else self._solve(quantity, "data", t, 1.0)

    def target(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) with the network's own output = a x_0 + b eps at times t [B]."""
        import torch

        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        a, b, scale = self._row(self.predicts, t, alpha, sigma)
        sign = -1.0 if self.data_at == 1 and self.predicts == "velocity" else 1.0
        zero = torch.zeros_like(t)
        return zero + sign * a / scale, zero + sign * b / scale

    def _solve(self, wanted: str, given: str, t: Any, sign: float) -> tuple[Any, Any]:
        """Both quantities are rows (a, b) over (x_0, eps), and so is x = (alpha, sigma)."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        w0, w1, w_scale = self._row(wanted, t, alpha, sigma)
        g0, g1, g_scale = self._row(given, t, alpha, sigma)
        denominator = (alpha * g1 - sigma * g0) * w_scale
        if is_tensor(t) or (denominator != 0 and math.isfinite(denominator)):
            p = (w0 * g1 - w1 * g0) / denominator
            q = sign * g_scale * (alpha * w1 - sigma * w0) / denominator
            if is_tensor(t) or (math.isfinite(p) and math.isfinite(q)):
                return p, q
        raise ValueError(
            f"t={t!r}: {wanted} cannot be computed from a prediction of {given} where "
            f"alpha={alpha:.6g}, sigma={sigma:.6g} on {self.schedule!r}; start or end the time "
            "grid elsewhere (plan(..., start=, end=)), or use another solver or prediction"
        )

    def _row(self, quantity: str, t: Any, alpha: Any, sigma: Any) -> tuple[Any, Any, Any]:
        """(a, b, scale) with scale * quantity = a x_0 + b eps."""
        if quantity == "data":
            return 1.0, 0.0, 1.0
        if quantity == "noise":
            return 0.0, 1.0, 1.0
        if quantity == "velocity":
            return self.schedule.d_alpha(t), self.schedule.d_sigma(t), 1.0
        if quantity == "v":
            return -sigma, alpha, 1.0
        if quantity == "score":
            return 0.0, -1.0, sigma
        if quantity != "edm":
            raise ValueError(f"quantity={quantity!r}: {nearest(quantity, QUANTITIES)}")
        # F = (x_0 - c_skip x) / c_out, with the common factor of numerator and denominator gone.
        norm = self._edm_norm(alpha, sigma)
        return sigma / (self.sigma_data * norm), -alpha * self.sigma_data / norm, 1.0

    def _edm_norm(self, alpha: Any, sigma: Any) -> Any:
        if is_tensor(sigma):
            return sigma.hypot(alpha * self.sigma_data)
        return math.hypot(sigma, alpha * self.sigma_data)
