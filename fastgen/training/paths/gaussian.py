"""Paths from pairs or from noise whose state is Gaussian given its end points."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.common.checks import check_nonnegative, check_positive
from fastgen.schedules import Schedule
from fastgen.training.paths.path import NOTHING, ONE, Path, Recipe, scaled


class Linear(Path):
    """x_t = (1 - t) x0 + t x1 + sigma z, velocity x1 - x0.

    Conditional flow matching of Tong et al. 2024 (arXiv 2302.00482) with independent pairs (I-CFM)
    or those of a coupling (OT-CFM); sigma = 0 is the rectified flow of Liu et al. 2023 (2209.03003)
    and, from noise, the conditional-OT path of Lipman et al. 2023 (2210.02747).

    Example:
        >>> path = fastgen.training.paths.Linear()
        >>> x0, x1 = torch.zeros(2, 1), torch.tensor([[1.0], [2.0]])
        >>> s = path.sample(x0, x1, torch.tensor([0.5, 0.25]))
        >>> s.x_t.tolist(), s.velocity.tolist()
        ([[0.5], [0.5]], [[1.0], [2.0]])
    """

    def __init__(self, sigma: float = 0.0, *, data_at: int = 1) -> None:
        super().__init__(data_at)
        self.sigma = float(check_nonnegative("sigma", sigma))

    @property
    def has_noise(self) -> bool:
        """Whether sigma > 0."""
        return self.sigma > 0

    def recipe(self) -> dict[str, Recipe]:
        """a = 1 - t, b = t, s = sigma."""
        found = {"a": (1.0, -1.0, 0.0, 0.0, 0.0), "b": (0.0, 1.0, 0.0, 0.0, 0.0)}
        found |= {"s": scaled(ONE, self.sigma), "da": scaled(ONE, -1.0), "db": ONE}
        found["ds"] = NOTHING
        if self.sigma:
            found["inverse"] = scaled(ONE, 1 / self.sigma)
        return found

    def standard_deviation(self, t: Tensor) -> Tensor:
        """Sigma at all times, [B]."""
        return torch.full_like(t, self.sigma)


class Target(Path):
    """x_t = (1 - (1 - sigma) t) x0 + t x1 from noise x0 ~ N(0, 1).

    Velocity x1 - (1 - sigma) x0: Lipman et al. 2023 (arXiv 2210.02747), equations 20 to 23.
    """

    noise_source = True

    def __init__(self, sigma: float = 0.0, *, data_at: int = 1) -> None:
        super().__init__(data_at)
        self.sigma = float(check_nonnegative("sigma", sigma))

    def recipe(self) -> dict[str, Recipe]:
        """a = 1 - (1 - sigma) t, b = t."""
        rest = 1.0 - self.sigma
        found = {"a": (1.0, -rest, 0.0, 0.0, 0.0), "b": (0.0, 1.0, 0.0, 0.0, 0.0), "s": NOTHING}
        return {**found, "da": scaled(ONE, -rest), "db": ONE, "ds": NOTHING}


class Brownian(Path):
    """x_t = (1 - t) x0 + t x1 + sigma sqrt(t (1 - t)) z: a Brownian bridge.

    Velocity x1 - x0 + sigma (1 - 2 t) / (2 sqrt(t (1 - t))) z. With the pairs of entropic optimal
    transport of regularisation 2 sigma^2 it is the Schroedinger bridge of [SF]2M (Tong et al. 2024,
    arXiv 2307.03672). The velocity is infinite at both ends; give
    ``times=uniform(1e-3, 1 - 1e-3)`` for a bound on it.
    """

    def __init__(self, sigma: float = 1.0, *, data_at: int = 1) -> None:
        super().__init__(data_at)
        self.sigma = float(check_positive("sigma", sigma, "without noise the path is Linear()"))

    @property
    def has_noise(self) -> bool:
        """True."""
        return True

    def recipe(self) -> dict[str, Recipe]:
        """a = 1 - t, b = t, s = sigma r."""
        s = self.sigma
        return {
            "a": (1.0, -1.0, 0.0, 0.0, 0.0),
            "b": (0.0, 1.0, 0.0, 0.0, 0.0),
            "s": (0.0, 0.0, s, 0.0, 0.0),
            "da": scaled(ONE, -1.0),
            "db": ONE,
            "ds": (0.0, 0.0, 0.0, s, 0.0),
            "inverse": (0.0, 0.0, 0.0, 0.0, 1 / s),
        }

    def standard_deviation(self, t: Tensor) -> Tensor:
        """Sigma sqrt(t (1 - t)), [B]."""
        u = t.to(torch.float64)
        return (self.sigma * (u * (1 - u)).sqrt()).to(t.dtype)


class Scheduled(Path):
    """x_t = sigma x0 + alpha x1 from noise x0 ~ N(0, 1), on any schedule of `fastgen.schedules`.

    alpha and sigma are those of the schedule's own time, 1 - t with data_at=1 and t with data_at=0,
    so that `Model(net, schedule, predicts, data_at=...)` samples what was trained.
    """

    noise_source = True

    def __init__(self, schedule: Schedule, *, data_at: int = 1) -> None:
        super().__init__(data_at)
        self.schedule = schedule

    def coefficients(self, t: Tensor) -> dict[str, Tensor]:
        """From the schedule at 1 - t."""
        s, zero = 1 - t, torch.zeros_like(t)
        sigma = self.schedule.sigma(s)
        found = {"a": sigma, "b": self.schedule.alpha(s), "s": zero, "ds": zero, "std": sigma}
        return {**found, "da": -self.schedule.d_sigma(s), "db": -self.schedule.d_alpha(s)}


def drift_weight(path: Linear | Brownian, t: Tensor) -> Tensor:
    """lambda(t) = 2 s(t) / sigma^2 [B], of [SF]2M's loss |lambda u + z|^2.

    With it the network learns u = sigma^2 / 2 times the score, the term that a stochastic sampler
    of diffusion sigma adds to the velocity (Tong et al. 2024, arXiv 2307.03672, equation 23).
    """
    sigma = check_positive("sigma", path.sigma, "there is no score without noise")
    return 2 * path.standard_deviation(t) / sigma**2
