"""How an observation corrects the data prediction: each method's approximation of p(y | x_t).

With D = E[x_0 | x_t] the posterior's data prediction is, by Tweedie's formula,

    E[x_0 | x_t, y] = D + (sigma^2 / alpha) grad log p(y | x_t),

and p(y | x_t) is the integral of p(y | x_0) over p(x_0 | x_t), which methods approximate. J is the
Jacobian of D in x_t, and Cov[x_0 | x_t] = (sigma^2 / alpha) J exactly. So every method is a map of
data predictions, and any solver may follow.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastgen.common.checks import check_positive, check_whole, per_row, rows_of
from fastgen.common.display import displayed
from fastgen.common.errors import nearest
from fastgen.observations.observation import Local, Mask, Observation
from fastgen.observations.solving import conjugate_residuals, pulled


@displayed
@dataclass(frozen=True)
class Point:
    """A data prediction, the observation near it and the level of noise there.

    Attributes:
        data: D = E[x_0 | x_t], [B, ...].
        back: v to J^T v; of methods without gradients it raises.
        near: the observation at D.
        exact: whether it has no noise.
        alpha, sigma: [B, 1, ...] in D's dtype.
        diffusion: g^2 of the forward process there, [B, 1, ...].
    """

    data: Tensor
    back: Callable[[Tensor], Tensor]
    near: Local
    exact: bool
    alpha: Tensor
    sigma: Tensor
    diffusion: Tensor

    def covariance(self, v: Tensor) -> Tensor:
        """Cov[x_0 | x_t] v = (sigma^2 / alpha) J^T v."""
        return self.sigma**2 / self.alpha * self.back(v)

    def prior(self, data_std: float) -> Tensor:
        """Var[x_0 | x_t] of Gaussian data: s^2 sigma^2 / (s^2 alpha^2 + sigma^2), [B, 1, ...]."""
        square = data_std**2
        return square * self.sigma**2 / (square * self.alpha**2 + self.sigma**2)


class Method(ABC):
    """An approximation of E[x_0 | x_t, y] from D = E[x_0 | x_t].

    Attributes:
        gradient: whether it asks for products with the network's Jacobian.
        soft: whether it has a meaning for soft masks.
        nonlinear: whether it takes functions that are not linear.
        exact_too: whether it takes observations without noise.
    """

    gradient: ClassVar[bool] = True
    soft: ClassVar[bool] = False
    nonlinear: ClassVar[bool] = True
    masks_only: ClassVar[bool] = False

    def replaces(self, observation: Observation) -> bool:
        """Whether known numbers take the place of the prediction, and nothing else happens."""
        return False

    @abstractmethod
    def corrected(self, at: Point) -> Tensor:
        """The posterior's data prediction [B, ...]."""

    def check(self, observation: Observation) -> None:
        """Raise a ValueError for an observation that it does not take."""
        name = type(self).__name__
        if self.masks_only and not isinstance(observation, Mask):
            raise ValueError(
                f"method: {name} is for fastgen.observations.Mask, got "
                f"{type(observation).__name__}; 'ddnm' is the same for linear maps"
            )
        if not self.nonlinear and not observation.linear:
            raise ValueError(
                f"method: {name} needs a linear observation; 'mmps', 'tmpd', 'pigdm' and 'dps' "
                f"take {type(observation).__name__}"
            )
        if not self.soft and isinstance(observation, Mask) and observation.soft:
            raise ValueError(
                f"method: {name} takes masks of 0 and 1; 'replacement', 'ddnm', 'diffpir' and "
                "'pigdm' take soft ones"
            )


@displayed
@dataclass(frozen=True)
class DPS(Method):
    """Diffusion posterior sampling (Chung et al. 2022, arXiv 2209.14687).

    p(y | x_t) is taken for p(y | x_0 = D), and its gradient for that of -|y - A(D)|: the paper
    moves the state after each step by -zeta grad |y - A(D)|. Here the state moves so at a rate: in
    the reverse SDE the data prediction counts alpha g^2 / sigma^2, so it is

        D + rate sigma^2 / (alpha g^2) J^T A^T (y - A D) / |y - A D|.

    Biased: Cov[x_0 | x_t] and the noise's size play no part, so the spread is not the posterior's.
    Solvers of the probability flow count D half as much, and move at half the rate.

    Args:
        rate: the paper's zeta times the number of steps that it is meant for.
    """

    rate: float = 100.0

    def __post_init__(self) -> None:
        check_positive("rate", self.rate)

    def corrected(self, at: Point) -> Tensor:
        """See `Method.corrected`."""
        residual = at.near.residual
        norm = per_row(rows_of(residual).norm(dim=1), residual)
        unit = residual / torch.where(norm > 0, norm, 1)
        push = at.back(at.near.transpose(unit))
        return at.data + self.rate * at.sigma**2 / (at.alpha * at.diffusion) * push


@displayed
@dataclass(frozen=True)
class PiGDM(Method):
    """Pseudo-inverse guidance (Song et al. 2023, openreview 9_gsMA8MRKQ).

    p(x_0 | x_t) is N(D, r^2) with the r^2 of Gaussian data of deviation s, so

        D + (sigma^2 / alpha) J^T A^T (r^2 A A^T + Sigma)^-1 (y - A D),
        r^2 = s^2 sigma^2 / (s^2 alpha^2 + sigma^2).

    Exact where the data are N(m, s^2); elsewhere r^2 is too large in directions where the data vary
    less. On a soft mask the weights multiply y - A D, and with ``most=5`` it is real-time chunking
    (Black et al. 2025, arXiv 2506.07339, eq. 2).

    Args:
        data_std: s, of the data.
        most: bound on the weight sigma / (alpha r^2), that of a flow's velocity in
            real-time chunking.
        iterations: of conjugate gradients for A A^T, which cost no network calls.
    """

    data_std: float = 1.0
    most: float = math.inf
    iterations: int = 20
    soft: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("data_std", self.data_std)
        check_positive("most", self.most, infinite=True)
        check_whole("iterations", self.iterations, 1)

    def corrected(self, at: Point) -> Tensor:
        """See `Method.corrected`."""
        prior = at.prior(self.data_std)
        push = at.back(pulled(at.near, prior, at.exact, self.iterations))
        weight = at.sigma / (at.alpha * prior)
        if self.most < math.inf:
            weight = weight.clamp_max(self.most)
        return at.data + at.sigma * weight * push


@displayed
@dataclass(frozen=True)
class TMPD(Method):
    """Tweedie moment projected diffusions (Boys et al. 2023, arXiv 2310.06721).

    The covariance of A x_0 is replaced by the diagonal of its row sums:

        D + C A^T diag(A C A^T 1 + Sigma)^-1 (y - A D),   C = Cov[x_0 | x_t] = (sigma^2 / alpha) J.

    Exact for Gaussian data where A C A^T is diagonal: masks of independent numbers. Elsewhere row
    sums may be far from the variances, and negative; of those the absolute value is taken, so that
    no step leads away from the observation.
    """

    def corrected(self, at: Point) -> Tensor:
        """See `Method.corrected`."""
        near = at.near
        ones = torch.ones_like(near.residual)
        spread = near.forward(at.covariance(near.transpose(ones)))
        variance = near.variance + spread.abs()
        known = variance > 0
        push = torch.where(known, near.residual / torch.where(known, variance, 1), 0)
        return at.data + at.covariance(near.transpose(push))


@displayed
@dataclass(frozen=True)
class MMPS(Method):
    """Moment matching posterior sampling (Rozet et al. 2024, arXiv 2405.13712).

    p(x_0 | x_t) is the Gaussian of its true mean and covariance C = (sigma^2 / alpha) J:

        D + C A^T (A C A^T + Sigma)^-1 (y - A D),

    the system solved by conjugate residuals, one product with J for each iteration. Exact for
    Gaussian data, any A, and as many iterations as there are observed numbers; few suffice.

    Args:
        iterations: of conjugate residuals.
    """

    iterations: int = 3

    def __post_init__(self) -> None:
        check_whole("iterations", self.iterations, 1)

    def corrected(self, at: Point) -> Tensor:
        """See `Method.corrected`."""
        near = at.near

        def apply(w: Tensor) -> Tensor:
            return near.variance * w + near.forward(at.covariance(near.transpose(w)))

        push = conjugate_residuals(apply, near.residual, self.iterations)
        return at.data + at.covariance(near.transpose(push))


@displayed
@dataclass(frozen=True)
class DDNM(Method):
    """Denoising diffusion null-space model (Wang et al. 2022, arXiv 2212.00490, eq. 13 and 17).

    D + A^+ (y - A D): what A sees comes from y, the rest from the network, without gradients. With
    noise each singular direction of A has a weight, so that no more noise comes in than the state
    has: the paper's is min(1, s sigma / (alpha sigma_y)) for a singular value s; without singular
    vectors it is here s^2 / (s^2 + (alpha sigma_y / sigma)^2), smooth and of the same ends, which
    is DiffPIR's of lam = 1. The paper then adds less fresh noise; here the solver's is what it is.
    Biased: y does not reach what is correlated with A x but through the network's next evaluation.

    Args:
        iterations: of conjugate gradients for A^+, where nobody gave it.
    """

    iterations: int = 20
    gradient: ClassVar[bool] = False
    soft: ClassVar[bool] = True
    nonlinear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole("iterations", self.iterations, 1)

    def corrected(self, at: Point) -> Tensor:
        """See `Method.corrected`."""
        prior = (at.sigma / at.alpha) ** 2
        return at.data + pulled(at.near, prior, at.exact, self.iterations)


@displayed
@dataclass(frozen=True)
class Replacement(DDNM):
    """What is known takes the place of the prediction: D <- m known + (1 - m) D.

    The state's known part is then the known data on their way to noise, as a solver of the forward
    process's own would have it: replacement (Song et al. 2021, arXiv 2011.13456, app. I.2). Biased:
    the network has to find on its own what fits to it; `"repaint"` goes back and forth for that.
    """

    masks_only: ClassVar[bool] = True

    def replaces(self, observation: Observation) -> bool:
        """See `Method.replaces`: where the known numbers have no noise."""
        return isinstance(observation, Mask) and observation.noise.none


@displayed
@dataclass(frozen=True)
class DiffPIR(Method):
    """Plug-and-play restoration (Zhu et al. 2023, arXiv 2305.08995, eq. 12 and 13).

    The point nearest to both: argmin |y - A x|^2 / Sigma + lam (alpha / sigma)^2 |x - D|^2, without
    gradients. Biased: the variance of x_0 given x_t is taken for that of data without a prior.

    Args:
        lam: the paper's lambda, how much the prediction counts.
        iterations: of conjugate gradients for A A^T.
    """

    lam: float = 1.0
    iterations: int = 20
    gradient: ClassVar[bool] = False
    soft: ClassVar[bool] = True
    nonlinear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_positive("lam", self.lam)
        check_whole("iterations", self.iterations, 1)

    def corrected(self, at: Point) -> Tensor:
        """See `Method.corrected`."""
        prior = (at.sigma / at.alpha) ** 2 / self.lam
        return at.data + pulled(at.near, prior, at.exact, self.iterations)


_BY_NAME: dict[str, Callable[[], Method]] = {
    "ddnm": DDNM,
    "diffpir": DiffPIR,
    "dps": DPS,
    "mmps": MMPS,
    "pigdm": PiGDM,
    "replacement": Replacement,
    "rtc": lambda: PiGDM(most=5.0),
    "tmpd": TMPD,
}
METHODS = tuple(sorted(_BY_NAME))
_OWN_STEPS = "daps", "ddrm", "repaint", "twisted"


def method_of(method: Any) -> Method:
    """A method from its name, or itself.

    Raises:
        ValueError: for an unknown name.
        TypeError: for something else.
    """
    if isinstance(method, Method):
        return method
    if not isinstance(method, str):
        raise TypeError(
            f"method={method!r}: expected one of {', '.join(METHODS)}, or an object such as "
            "fastgen.observations.MMPS(iterations=5)"
        )
    if method in _OWN_STEPS:
        raise ValueError(
            f"method={method!r}: it has steps of its own, not a model's data prediction; "
            "fastgen.posterior takes it"
        )
    if method not in _BY_NAME:
        raise ValueError(f"method={method!r}: {nearest(method, METHODS)}")
    return _BY_NAME[method]()
